"""Folders and tars as people have them: which files are taken, their order and their classes."""

from __future__ import annotations

import io
import os
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from outer import SIZE, write_tar
from PIL import Image

from convswap import ConvswapError, Preprocess, open_images
from convswap.inputs.images import keeps_apart, training_batches
from convswap.inputs.sources import natural, open_source

RAW = Preprocess(input_size=(3, SIZE, SIZE), mean=(0, 0, 0), std=(1, 1, 1))

TREES = {  # files; those that are taken, in order; classes; labels; words of what is said
    "flat": (["b.png", "a.jpg"], ["a.jpg", "b.png"], None, [0, 0], ()),
    "numbers as people count": (
        ["a10.png", "a9.png", "A1.png"], ["A1.png", "a9.png", "a10.png"], None, [0, 0, 0], ()),
    "class folders": (
        ["bee/1.png", "ant/1.png", "ant/0.png"], ["ant/0.png", "ant/1.png", "bee/1.png"],
        ["ant", "bee"], [0, 0, 1], ()),
    "classes that are numbers": (
        ["10/a.png", "9/a.png", "1/a.png"], ["1/a.png", "9/a.png", "10/a.png"],
        ["1", "9", "10"], [0, 1, 2], ()),
    "one class folder is none": (["ant/0.png", "ant/1.png"], ["ant/0.png", "ant/1.png"], None,
                                 [0, 0], ()),
    "class folders within another": (
        ["images/ant/0.png", "images/bee/0.png"], ["images/ant/0.png", "images/bee/0.png"],
        ["ant", "bee"], [0, 1], ()),
    "folders within class folders": (
        ["ant/old/0.png", "ant/new/0.png", "bee/0.png"],
        ["ant/new/0.png", "ant/old/0.png", "bee/0.png"], ["ant", "bee"], [0, 0, 1],
        ("classes are the 2 folders at the top of",)),
    "files beside class folders": (
        ["ant/0.png", "bee/0.png", "cover.png"], ["ant/0.png", "bee/0.png"], ["ant", "bee"],
        [0, 1], ("left out 1 files beside the class folders",)),
    "other files": (
        ["a.png", "a.txt", "b.TXT", "README", "x.csv"], ["a.png"], None, [0],
        ("passed over 4 files of", "2 .txt, 1 without suffix, 1 .csv")),
    "hidden files and folders": (
        [".DS_Store", "._a.png", "a.png", ".cache/b.png", "__MACOSX/x.txt", "@eaDir/a.png",
         "Thumbs.db"], ["a.png"], None, [0], ("passed over 1 files",)),
    "arrays beside images": (["a.png", "b.npy"], ["a.png"], None, [0], ("1 .npy",)),
    "arrays alone": (["b.npy", "a.npy"], ["a.npy", "b.npy"], None, [0, 0], ()),
    "a name of no encoding": (["a\udcff.png", "b.png"], ["a\udcff.png", "b.png"], None, [0, 0], ()),
    "a class that steers the terminal": (
        ["\x1b[2J/0.png", "bee/0.png"], ["\x1b[2J/0.png", "bee/0.png"], [r"\x1b[2J", "bee"],
        [0, 1], ()),
    "masks beside images": (
        ["images/0.png", "images/1.png", "masks/0.png"], ["images/0.png", "images/1.png"], None,
        [0, 0], ("left out 1 files of", "masks/")),
    "segmentation as of VOC": (
        ["JPEGImages/0.jpg", "SegmentationClass/0.png", "SegmentationObject/0.png"],
        ["JPEGImages/0.jpg"], None, [0], ("SegmentationClass/, SegmentationObject/",)),
    "segmentation as of Cityscapes": (
        ["gtFine/train/a/0.png", "leftImg8bit/train/a/0.png", "leftImg8bit/val/b/0.png"],
        ["leftImg8bit/train/a/0.png"], None, [0], ("left out 1 files", "train/ is used")),
    "masks in every part": (
        ["train/images/0.png", "train/labels/0.png", "test/images/0.png", "test/labels/0.png"],
        ["train/images/0.png"], None, [0], ("left out 2 files", "train/ is used")),
    "masks in every class": (
        ["ant/images/0.png", "ant/masks/0.png", "bee/images/0.png", "bee/masks/0.png"],
        ["ant/images/0.png", "bee/images/0.png"], ["ant", "bee"], [0, 1],
        ("left out 2 files", "classes are the 2 folders")),
    "masks by longer names": (
        ["train_images/0.png", "train_masks/0.png"], ["train_images/0.png"], None, [0],
        ("train_masks/",)),
    "masks by longer file names": (
        ["a.jpg", "a_mask.png", "b 1.jpg", "b 1_mask_2.png", "c_mask.png", "gas_mask.jpg"],
        ["a.jpg", "b 1.jpg", "c_mask.png", "gas_mask.jpg"], None, [0, 0, 0, 0],
        ("left out 2 files of", "like a_mask.png")),
    "masks that are classes": (
        ["gas mask/0.png", "photo frame/0.png", "with_mask/0.png"],
        ["gas mask/0.png", "photo frame/0.png", "with_mask/0.png"],
        ["gas mask", "photo frame", "with_mask"], [0, 1, 2], ()),
    "small and large": (
        ["HR/1.png", "LR/1x2.png"], ["LR/1x2.png"], None, [0],
        ("left out 1 files of", "in HR/, for they are what those in LR/ should become")),
    "small and large, as of DIV2K": (
        [f"DIV2K_{part}" for part in (
            "train_HR/1.png", "train_LR_bicubic/X2/1x2.png", "train_LR_bicubic/X10/1x10.png",
            "train_LR_wild/1x4w2.png", "valid_HR/2.png", "valid_LR_bicubic/X2/2x2.png")],
        ["DIV2K_train_LR_bicubic/X2/1x2.png", "DIV2K_train_LR_bicubic/X10/1x10.png"], None, [0, 0],
        ("DIV2K_train_HR/, DIV2K_valid_HR/", "_valid_LR_bicubic/, DIV2K_train_LR_bicubic/ is used",
         "taken in several sizes: X2/, X10/")),
    "small and large, as archives and tools leave them": (
        ["train_HR_sub/1.png", "train_LR_bicubic_X2/train_LR_bicubic/X2_sub/1x2.png"],
        ["train_LR_bicubic_X2/train_LR_bicubic/X2_sub/1x2.png"], None, [0], ("train_HR_sub/",)),
    "small and large, as of benchmarks": (
        ["GTmod12/1.png", "LRbicx2/1.png", "LRbicx3/1.png", "original/1.png"],
        ["LRbicx2/1.png", "LRbicx3/1.png"], ["LRbicx2", "LRbicx3"], [0, 1],
        ("GTmod12/, original/",)),
    "blurred and sharp in every part": (
        [f"{part}/{kind}/{i}.png" for part in ("test", "train") for kind in ("blur", "sharp")
         for i in (0, 1)],
        ["train/blur/0.png", "train/blur/1.png"], None, [0, 0], ("sharp/", "train/ is used")),
    "two domains of a style": (
        ["trainA/0.png", "trainB/7.png"], ["trainA/0.png"], None, [0], ("in trainB/",)),
    "pairs of one letter": (["A/0.png", "B/0.png"], ["A/0.png"], None, [0], ("in B/",)),
    "letters that are classes": (
        ["A/0.png", "B/0.png", "C/0.png"], ["A/0.png", "B/0.png", "C/0.png"], ["A", "B", "C"],
        [0, 1, 2], ()),
    "weather that is classes": (
        ["clear/0.png", "hazy/7.png"], ["clear/0.png", "hazy/7.png"], ["clear", "hazy"],
        [0, 1], ()),
    "trains that are classes": (
        ["test_tube/0.png", "train_station/0.png", "trains/0.png"],
        ["test_tube/0.png", "train_station/0.png", "trains/0.png"],
        ["test_tube", "train_station", "trains"], [0, 1, 2], ()),
    "superscripts are no numbers": (["²/0.png", "³/0.png"], ["²/0.png", "³/0.png"], ["²", "³"],
                                    [0, 1], ()),
}  # fmt: skip


def plant(folder: Path, files: list[str]) -> Path:
    """A folder with these files, all of them empty."""
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.mark.parametrize("kind", ["folder", "tar"])
@pytest.mark.parametrize(
    ("files", "taken", "classes", "labels", "words"), TREES.values(), ids=TREES.keys()
)
def test_a_folder_and_its_tar_are_read_as_people_mean_them(
    files, taken, classes, labels, words, kind, tmp_path
):
    source = plant(tmp_path / "data", files)
    if kind == "tar":
        source = write_tar(tmp_path / "data.tar", source)
    found = open_source(str(source))
    assert (found.files, found.classes, found.labels) == (taken, classes, labels)
    said = "; ".join(found.notes)
    assert bool(said) == bool(words)
    assert [word for word in words if word not in said] == []


SPLITS = {  # folders; that to train on; that to judge by
    "train and val": (["train", "val"], "train", "val"),
    "train and test": (["train", "test"], "train", "test"),
    "all three": (["train", "test", "val"], "train", "val"),
    "other words, other case": (["Training", "VALID"], "Training", "VALID"),
    "one level down": (["data/train", "data/validation"], "data/train", "data/validation"),
    "and more": (["train", "val", "unlabelled"], "train", "val"),
    "train and eval": (["eval", "train"], "train", "eval"),
    "years": (["train2017", "val2017"], "train2017", "val2017"),
    "two domains": (["testA", "testB", "trainA", "trainB"], "trainA", "testA"),
    "longer names": (["ILSVRC_train", "ILSVRC_val"], "ILSVRC_train", "ILSVRC_val"),
}


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("kind", ["folder", "tar"])
@pytest.mark.parametrize(("folders", "train", "judge"), SPLITS.values(), ids=SPLITS.keys())
def test_folders_to_train_on_and_to_judge_by_are_noticed(
    folders, train, judge, kind, held_out, tmp_path
):
    files = [f"{folder}/{label}/0.png" for folder in folders for label in ("bee", "ant")]
    source = plant(tmp_path / "data", files)
    if kind == "tar":
        source = write_tar(tmp_path / "data.tar", source)
    found = open_source(str(source), held_out)
    taken = judge if held_out else train
    assert found.files == [f"{taken}/ant/0.png", f"{taken}/bee/0.png"]
    assert found.classes == ["ant", "bee"]
    *_, note = found.notes
    assert note.endswith(f"{taken.rpartition('/')[2]}/ is used")


def test_a_source_may_keep_images_apart_to_judge_by(tmp_path):
    array = np.zeros((2, 3), "float32")
    np.savez(tmp_path / "whole.npz", x=array)
    np.savez(tmp_path / "parts.npz", x_train=array, x_test=array)
    whole = plant(tmp_path / "whole", ["0.png"])
    parts = plant(tmp_path / "parts", ["train/0.png", "val/0.png"])
    assert keeps_apart("digits")
    for source in (whole, tmp_path / "whole.npz"):
        assert not keeps_apart(str(source))
    for source in (parts, tmp_path / "parts.npz"):
        assert keeps_apart(str(source))


JUDGES = {  # files below val/, and the labels of those; None: they have no classes
    "two of three": (["ant/0.png", "cat/0.png"], [0, 2]),
    "one": (["cat/0.png", "cat/1.png"], [2, 2]),
    "one, folders within": (["cat/old/0.png"], [2]),
    "flat, as ImageNet comes": (["0.png", "1.png"], None),
    "flat, folders within": (["old/0.png"], None),
}


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize(("judges", "labels"), JUDGES.values(), ids=JUDGES.keys())
def test_classes_have_the_numbers_they_were_trained_with(judges, labels, held_out, tmp_path):
    files = [f"val/{name}" for name in judges] + [f"train/{c}/0.png" for c in ("ant", "bee", "cat")]
    found = open_source(str(plant(tmp_path, files)), held_out)
    if not held_out:
        labels = [0, 1, 2]
    assert found.classes == (["ant", "bee", "cat"] if labels else None)
    assert found.labels == (labels or [0] * len(judges))


@pytest.mark.parametrize("folders", [["train", "extra"], ["val", "extra"], ["training", "other"]])
def test_one_half_of_a_split_is_a_class_like_any_other(folders, tmp_path):
    found = open_source(str(plant(tmp_path, [f"{folder}/0.png" for folder in folders])))
    assert found.classes == sorted(folders)
    assert found.notes == []


def test_training_and_its_judges_never_see_what_is_kept_to_judge_by(tmp_path):
    for folder, colour in (("train", "white"), ("val", "black")):
        (tmp_path / folder).mkdir()
        for index in range(8):
            Image.new("RGB", (SIZE, SIZE), colour).save(tmp_path / folder / f"{index}.png")
    said = []
    training, judges = training_batches(str(tmp_path), RAW, 4, note=said.append)
    assert min(x.min() for part in (training, judges) for (x,) in part) > 0.9
    assert len(training.order) + len(judges.order) == 8
    assert [line for line in said if "train/ is used" in line] == said  # once
    (x,) = next(iter(open_images(str(tmp_path), RAW, held_out=True).batches(8)))
    assert x.max() == 0


def test_what_links_lead_to_is_taken_once(tmp_path):
    folder = plant(tmp_path / "data", ["ant/0.png", "bee/0.png"])
    (folder / "bee" / "up").symlink_to("..", target_is_directory=True)
    (folder / "loop").symlink_to("loop")
    (folder / "far").symlink_to(plant(tmp_path / "elsewhere", ["1.png"]))
    found = open_source(str(folder))
    assert found.files == ["ant/0.png", "bee/0.png", "far/1.png"]
    assert found.classes == ["ant", "bee", "far"]


def test_a_class_that_is_a_link_has_the_name_of_the_link(tmp_path):
    plant(tmp_path, ["store/0.png", "data/ant/0.png"])
    (tmp_path / "data" / "bee").symlink_to(tmp_path / "store")
    assert open_source(str(tmp_path / "data")).classes == ["ant", "bee"]


def test_a_tar_within_which_files_lie_under_a_dot_is_read_alike(tmp_path):
    folder = plant(tmp_path / "data", ["ant/0.png", "bee/0.png"])
    with tarfile.open(tmp_path / "d.tar", "w") as archive:
        archive.add(folder, ".")
    assert open_source(str(tmp_path / "d.tar")).files == open_source(str(folder)).files


def test_what_a_tar_holds_beside_files_is_passed_over(tmp_path):
    with tarfile.open(tmp_path / "d.tar", "w") as archive:
        for name, kind in {"a.png": tarfile.REGTYPE, "b.png": tarfile.FIFOTYPE,
                           "c.png": tarfile.CHRTYPE, "d.png": tarfile.SYMTYPE}.items():  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member, io.BytesIO())
    assert open_source(str(tmp_path / "d.tar")).files == ["a.png"]


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_packed_tar_is_said_to_be_packed_whatever_its_name(mode, tmp_path):
    with tarfile.open(tmp_path / "d.tar", mode) as archive:
        archive.add(__file__, "a.png")
    with pytest.raises(ConvswapError, match=r"d\.tar is packed with \w+ - unpack it"):
        open_source(str(tmp_path / "d.tar"))


@pytest.mark.parametrize("suffix", [".txt", ".tar.gz", ".zip"])
def test_a_file_of_another_kind_is_no_source(suffix, tmp_path):
    (tmp_path / f"data{suffix}").touch()
    with pytest.raises(ConvswapError, match=r"neither a folder nor a \.tar, \.npy or \.npz file"):
        open_source(str(tmp_path / f"data{suffix}"))


def test_a_folder_without_images_says_what_is_there(tmp_path):
    folder = plant(tmp_path, ["a.heic", "b.heic", "c"])
    with pytest.raises(ConvswapError, match=r"no images in .*, but 2 \.heic, 1 without suffix - "):
        open_source(str(folder))


def test_a_pipe_is_no_source(tmp_path):
    os.mkfifo(tmp_path / "data.tar")
    with pytest.raises(ConvswapError, match="neither a folder nor"):
        open_images(str(tmp_path / "data.tar"), RAW)


def test_names_sort_as_people_sort_them():
    names = ["b", "a10", "A2", "a2b", "a02", "a" + "9" * 5000, "", "a1.5", "a1.10"]
    assert sorted(names, key=natural) == [
        "", "a1.5", "a1.10", "A2", "a02", "a2b", "a10", "a" + "9" * 5000, "b"
    ]  # fmt: skip


COUNTS = [pytest.param(50, 1), pytest.param(2000, 2, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("count", "seed"), COUNTS)
def test_a_damaged_tar_is_refused_in_one_line_or_holds_files(count, seed, tmp_path):
    plant(tmp_path / "data", ["ant/0.png", "bee/0.png", "bee/" + 60 * "long" + ".png"])
    content = write_tar(tmp_path / "d.tar", tmp_path / "data").read_bytes()
    dice = random.Random(seed)
    for _ in range(count):
        spoiled = bytearray(content)
        for place in dice.choices(range(len(content)), k=dice.randrange(1, 9)):
            spoiled[place] = dice.randrange(256)
        (tmp_path / "d.tar").write_bytes(spoiled)
        refusal = ""
        try:
            images = open_images(str(tmp_path / "d.tar"), RAW)
        except ConvswapError as error:
            refusal = str(error)
        else:
            assert isinstance(images.items[0, 0], str)  # of empty files, none is an image
        assert refusal.isprintable()


def test_a_worker_reads_a_tar_as_the_process_itself_does(tmp_path):
    for index in range(6):
        Image.new("RGB", (SIZE, SIZE), (40 * index,) * 3).save(tmp_path / f"{index}.png")
    images = open_images(str(write_tar(tmp_path / "d.tar", tmp_path)), RAW)
    alone, beside = (torch.cat([x for (x,) in images.batches(2, workers=n)]) for n in (0, 2))
    assert torch.equal(alone, beside)
