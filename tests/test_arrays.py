"""NumPy arrays, for data that are not images: what they become, and which are refused."""

from __future__ import annotations

import random
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from outer import write_tar
from torch import nn

from convswap import ConvswapError, Preprocess, open_images, plan, record_of
from convswap.inputs import arrays as array_files
from convswap.inputs.preprocess import settle_preprocess
from convswap.plans import Budget
from convswap.record import remember

SHAPE = (4, 6, 5)
KINDS = ["npy", "npz", "folder", "tar"]


def read_as(shape: tuple[int, ...], mean: float = 0, std: float = 1) -> Preprocess:
    channels = shape[0] if len(shape) > 1 else 1
    return Preprocess(input_size=shape, mean=(mean,) * channels, std=(std,) * channels)


def write_arrays(folder: Path, arrays: np.ndarray, kind: str) -> str:
    """Arrays `[n, ...]` as one file of all, or a folder or tar of one file for each."""
    if kind == "npy":
        np.save(folder / "x.npy", arrays)
        return str(folder / "x.npy")
    if kind == "npz":
        np.savez_compressed(folder / "x.npz", anything=arrays)
        return str(folder / "x.npz")
    (folder / "x").mkdir()
    for index, array in enumerate(arrays):
        np.save(folder / "x" / f"{index}.npy", array)
    return str(write_tar(folder / "x.tar", folder / "x") if kind == "tar" else folder / "x")


def tensors(images) -> torch.Tensor:
    return torch.cat([batch[0] for batch in images.batches(4)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(16000,), (1, 64), SHAPE, (2, 3, 4, 4)])
def test_arrays_of_any_shape_come_as_they_are(kind, shape, tmp_path):
    arrays = np.random.default_rng(0).normal(size=(5, *shape)).astype("float32")
    images = open_images(write_arrays(tmp_path, arrays, kind), read_as(shape))
    assert len(images) == 5
    assert images.classes is None
    assert torch.equal(tensors(images), torch.from_numpy(arrays))


TYPES = {  # type, what is stored, what comes
    "float64": ("float64", 0.25, 0.25),
    "float16": ("float16", -2, -2.0),
    "the other byte order": (">f4", 0.25, 0.25),
    "yes and no": ("bool", True, 1.0),
    "uint8": ("uint8", 51, 0.2),
    "uint16": ("uint16", 13107, 0.2),
    "uint16 of the other byte order": (">u2", 13107, 0.2),
    "int8": ("int8", -64, -0.5),
    "int16, such as sound": ("int16", -16384, -0.5),
}


@pytest.mark.parametrize(("dtype", "stored", "wanted"), TYPES.values(), ids=TYPES.keys())
def test_short_integers_are_fractions_of_the_largest_of_their_type(dtype, stored, wanted, tmp_path):
    source = write_arrays(tmp_path, np.full((2, *SHAPE), stored, dtype), "npy")
    x = tensors(open_images(source, read_as(SHAPE)))
    assert x.dtype == torch.float32
    assert x.unique().tolist() == pytest.approx([wanted])
    x = tensors(open_images(source, read_as(SHAPE, mean=0.5, std=2)))
    assert x.unique().tolist() == pytest.approx([(wanted - 0.5) / 2])


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "uint64"])
def test_longer_integers_stay_whole_numbers(dtype, tmp_path):
    source = write_arrays(tmp_path, np.full((2, 7), 30521, dtype), "npy")
    x = tensors(open_images(source, read_as((7,))))
    assert x.dtype == torch.int64
    assert x.unique().tolist() == [30521]


LABELS = np.array([0, 2, 1, 2])
LABELLED = {  # the names of inputs and labels in an archive, and the labels
    "x and y": ("x", "y", LABELS),
    "large letters": ("X", "Y", LABELS),
    "images and labels": ("images", "labels", LABELS.astype("float32")),
    "parts, as of MNIST": ("x_train", "y_train", LABELS),
    "parts, as of MedMNIST": ("train_images", "train_labels", LABELS[:, None].astype("uint8")),
}


@pytest.mark.parametrize(("x", "y", "labels"), LABELLED.values(), ids=LABELLED.keys())
def test_labels_come_along(x, y, labels, tmp_path):
    path, said = str(tmp_path / "d.npz"), []
    train = {x: np.zeros((4, *SHAPE), "float32"), y: labels}
    test = {name.replace("train", "test"): array[:2] for name, array in train.items()}
    np.savez(path, **(test | train))
    images = open_images(path, read_as(SHAPE), note=said.append)
    assert images.classes == ["0", "1", "2"]
    assert torch.cat([found for _, found in images.batches(3)]).tolist() == [0, 2, 1, 2]
    parts = len(test.keys() - train.keys()) > 0
    assert said == [f"of {path}, which has test, train, train is used"] * parts
    assert len(open_images(path, read_as(SHAPE), held_out=True)) == (2 if parts else 4)


def test_folders_of_arrays_are_classes(tmp_path):
    for name in ("low", "high"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "0.npy", np.zeros(SHAPE))
    images = open_images(str(tmp_path), read_as(SHAPE))
    assert images.classes == ["high", "low"]


SPOILED = {  # what one of many holds; a word of the reason
    "NaN": (np.full(SHAPE, np.nan, "float32"), "NaN or infinite"),
    "infinity": (np.full(SHAPE, -np.inf, "float32"), "NaN or infinite"),
    "beyond float32": (np.full(SHAPE, 1e300), "NaN or infinite"),
    "another shape": (np.zeros((4, 6, 6)), "its shape is 4x6x6, not 4x6x5"),
    "complex numbers": (np.zeros(SHAPE, "complex64"), "no real number"),
    "text": (np.full(SHAPE, "hello"), "no real number"),
    "a table": (np.zeros(SHAPE, [("a", "f4")]), "no real number"),
    "Python objects": (np.full(SHAPE, None), "Object arrays cannot be loaded"),
}


@pytest.mark.parametrize(("array", "word"), SPOILED.values(), ids=SPOILED.keys())
def test_an_array_that_cannot_be_is_left_out_and_named(array, word, tmp_path):
    source, said = write_arrays(tmp_path, np.zeros((5, *SHAPE)), "folder"), []
    np.save(Path(source) / "bad.npy", array, allow_pickle=True)
    images = open_images(source, read_as(SHAPE), note=said.append)
    assert len(tensors(images)) == 5
    (line,) = said
    assert line.startswith(f"skipped 1 unreadable images of {source}; the first is bad.npy: ")
    assert word in line


def test_of_many_arrays_in_one_file_the_bad_one_is_named_by_its_number(tmp_path):
    arrays, said = np.zeros((30, *SHAPE), "float32"), []
    arrays[17, 0, 0, 0] = np.nan
    images = open_images(write_arrays(tmp_path, arrays, "npy"), read_as(SHAPE), note=said.append)
    assert len(tensors(images)) == 29
    assert "number 17: it holds NaN or infinite values" in said[0]


def _text_in_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "text")


def _twice_in_zip(path: Path) -> None:
    np.savez(path, x=np.zeros((2, 2)))
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile says that it writes a name twice
        archive.writestr("x.npy", archive.read("x.npy"))


REFUSED = {  # what writes the file; words of the reason
    "Python objects": (
        lambda path: np.save(path, np.full((2, 2), None), allow_pickle=True), "Python objects"),
    "one number": (lambda path: np.save(path, np.float32(1)), r"not of \[n, ...\]"),
    "a list of numbers": (lambda path: np.save(path, np.zeros(9)), r"not of \[n, ...\]"),
    "nothing": (lambda path: np.save(path, np.zeros((0, 4))), r"not of \[n, ...\]"),
    "rubbish": (lambda path: path.write_bytes(b"hello"), "cannot read"),
    "an empty file": (lambda path: path.write_bytes(b""), "cannot read"),
    "several arrays": (
        lambda path: np.savez(path, a=np.zeros((2, 2)), b=np.zeros((2, 2))),
        "holds 2 arrays .* name the inputs x and the labels y"),
    "several inputs": (
        lambda path: np.savez(path, x=np.zeros((2, 2)), images=np.zeros((2, 2))),
        r"holds 2 arrays \(x, images\)"),
    "labels that are fractions": (
        lambda path: np.savez(path, x=np.zeros((2, 2)), y=np.full(2, 0.5)), "class number"),
    "labels of some": (
        lambda path: np.savez(path, x=np.zeros((2, 2)), y=np.zeros(1, int)),
        "class number"),
    "no arrays": (lambda path: np.savez(path), "holds 0 arrays"),
    "no arrays, but text": (_text_in_zip, "holds 0 arrays"),
    "an array twice": (_twice_in_zip, "holds x.npy twice"),
    "a class of a billion": (
        lambda path: np.savez(path, x=np.zeros((2, 2)), y=np.full(2, 10**9)), "is 1000000000"),
}  # fmt: skip
PACKED = (
    "several arrays", "several inputs", "labels that are fractions", "labels of some", "no arrays",
    "no arrays, but text",
    "an array twice", "a class of a billion",
)  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_of_other_arrays_is_refused(name, tmp_path):
    write, words = REFUSED[name]
    path = tmp_path / ("x.npz" if name in PACKED else "x.npy")
    write(path)
    with pytest.raises(ConvswapError, match=words):
        open_images(str(path), read_as((2,)))


def test_an_archive_that_unpacks_to_more_than_memory_holds_is_refused(tmp_path, monkeypatch):
    source = write_arrays(tmp_path, np.zeros((9, *SHAPE)), "npz")
    monkeypatch.setattr(array_files, "UNPACKED_BYTES", 9 * 4 * 6 * 5 * 8)
    with pytest.raises(ConvswapError, match=r"unpacks to more than .* save its arrays as \.npy"):
        open_images(source, read_as(SHAPE))  # the header of the array comes on top


COUNTS = [pytest.param(60, 1), pytest.param(3000, 2, marks=pytest.mark.slow)]


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize(("count", "seed"), COUNTS)
def test_a_damaged_array_is_refused_in_one_line_or_read(count, seed, kind, tmp_path):
    source = Path(write_arrays(tmp_path, np.ones((1, *SHAPE), "float32"), kind))
    path = source / "0.npy" if kind == "folder" else source
    content, dice = path.read_bytes(), random.Random(seed)
    for _ in range(count):
        spoiled = bytearray(content)
        for place in dice.choices(range(len(content)), k=dice.randrange(1, 4)):
            spoiled[place] = dice.randrange(256)
        path.write_bytes(spoiled)
        refusal = ""
        try:
            item = open_images(str(source), read_as(SHAPE)).items[0, 0]
        except ConvswapError as error:
            refusal = str(error)
        else:
            refusal = item if isinstance(item, str) else ""
            assert refusal or item[0].shape == SHAPE
        assert refusal.isprintable()


# --- networks that read them ----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_shape_of_arrays_is_the_input_size_and_no_mean_is_taken(kind, tmp_path):
    source = write_arrays(tmp_path, np.zeros((3, *SHAPE), "uint8"), kind)
    model, said = nn.Conv2d(4, 4, 3), []
    settled = settle_preprocess(model, source, note=said.append)
    assert settled == read_as(SHAPE)
    assert said == [
        "values of type uint8 are divided by 255",
        "arrays of 4x6x5 are taken without mean and std: say otherwise with --mean, --std",
    ]


def test_a_mean_that_is_said_is_taken(tmp_path):
    source = write_arrays(tmp_path, np.zeros((3, *SHAPE)), "npy")
    said = []
    settled = settle_preprocess(
        nn.Conv2d(4, 4, 3), source, mean=(0.5,), std=(1, 2, 3, 4), note=said.append
    )
    assert (settled.mean, settled.std) == ((0.5,) * 4, (1, 2, 3, 4))
    assert said == []


def test_a_network_made_for_images_reads_arrays_as_they_are(tmp_path):
    model = remember(nn.Conv2d(3, 4, 3), preprocess=Preprocess(input_size=(3, 8, 8)))
    source = write_arrays(tmp_path, np.zeros((3, 3, 9, 9)), "folder")
    assert settle_preprocess(model, source) == read_as((3, 9, 9))
    assert record_of(model).preprocess == read_as((3, 9, 9))


@pytest.mark.parametrize("shape", [(), (1 << 21,), (6000, 6000)])
def test_arrays_of_a_shape_that_no_input_can_have_are_refused(shape, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(shape, "uint8"))
    with pytest.raises(ConvswapError, match="impossible input"):
        settle_preprocess(nn.Conv2d(3, 4, 3), str(tmp_path))


def test_a_network_that_cannot_read_such_arrays_says_so_at_once(tmp_path):
    source = write_arrays(tmp_path, np.zeros((3, *SHAPE)), "npy")
    with pytest.raises(ConvswapError, match=r"fails on an input of 4x6x5: .* 3 channels"):
        settle_preprocess(nn.Conv2d(3, 4, 3), source)


@pytest.mark.parametrize("shape", [(6, 5, 4), (3, 6, 5, 4)])
def test_channels_are_found_where_they_come_last(shape, tmp_path):
    arrays, said = np.random.default_rng(0).random((3, *shape), "float32"), []
    source = write_arrays(tmp_path, arrays, "npy")
    layer = (nn.Conv2d if len(shape) == 3 else nn.Conv3d)(4, 4, 3)
    settled = settle_preprocess(layer, source, note=said.append)
    assert settled == read_as((shape[-1], *shape[:-1]))
    assert said[-1].startswith("arrays of ")
    read = tensors(open_images(source, settled))
    assert torch.equal(read.movedim(1, -1), torch.from_numpy(arrays))


def test_images_without_channels_are_of_one(tmp_path):
    source, said = write_arrays(tmp_path, np.ones((3, 6, 5)), "npy"), []
    settled = settle_preprocess(nn.Conv2d(1, 4, 3), source, note=said.append)
    assert settled == read_as((1, 6, 5))
    assert said[-1] == "arrays of 6x5 are read as 1x6x5"
    assert tensors(open_images(source, settled)).shape == (3, 1, 6, 5)


def test_where_no_array_can_be_read_the_first_is_named(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"hello")
    with pytest.raises(ConvswapError, match=r"no array of .* can be read; the first is a\.npy: "):
        settle_preprocess(nn.Conv2d(3, 4, 3), str(tmp_path))


def test_sound_is_planned_on(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 16, 9), nn.ReLU(), nn.Conv1d(16, 16, 9), nn.ReLU(),
                          nn.Conv1d(16, 8, 9), nn.Flatten(), nn.LazyLinear(5))  # fmt: skip
    model(torch.zeros(1, 1, 64))
    sound = np.random.default_rng(0).integers(-9999, 9999, (24, 1, 64)).astype("int16")
    source = write_arrays(tmp_path, sound, "npy")
    settled = settle_preprocess(model, source)
    batches = [*open_images(source, settled).batches(8)]
    made = plan(model, batches, Budget(macs=0.6))
    assert made.inputs[0].shape == (1, 1, 64)
    assert made.planned.macs <= 0.6 * made.dense.macs
    assert made.choices


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Conv1d(1, 4, 3), (1, 40)), (nn.Conv3d(1, 4, 3), (1, 6, 6, 6)), (nn.Linear(9, 4), (9,))],
)
def test_a_network_is_looked_at_on_an_input_of_any_shape_that_is_said(layer, shape):
    assert settle_preprocess(layer, input_size=shape) == read_as(shape)
