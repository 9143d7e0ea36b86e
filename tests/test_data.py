"""Images: which sources there are, what order they come in, and what becomes of bad ones."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import torch
from outer import CLASSES, SIZE, names, truncate, write_images, write_tar
from PIL import Image

from convswap import ConvswapError, Preprocess, open_images
from convswap.errors import DataError
from convswap.inputs.digits import HELD_OUT_DIGITS
from convswap.inputs.images import native_size, training_batches
from convswap.inputs.networks import declared_preprocess, open_structure
from convswap.inputs.pixels import ImageTransform

RGB = Preprocess(input_size=(3, SIZE, SIZE))
GRAY = Preprocess(input_size=(1, SIZE, SIZE), mean=(0.5,), std=(0.5,))
RAW = Preprocess(input_size=(3, SIZE, SIZE), mean=(0, 0, 0), std=(1, 1, 1))
CROPPED = RAW.model_copy(update={"crop_pct": 0.75})
DIGITS = Preprocess(input_size=(1, 8, 8), mean=(0.5,), std=(0.5,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "data", each=5)


def pixels(images, **kwargs) -> torch.Tensor:
    return torch.cat([batch[0] for batch in images.batches(4, **kwargs)])


def labels(images, **kwargs) -> list[int]:
    return torch.cat([batch[1] for batch in images.batches(4, **kwargs)]).tolist()


# --- sources --------------------------------------------------------------------------------


def test_class_folders_are_labelled_in_alphabetical_order(folder):
    images = open_images(str(folder), RGB)
    assert images.classes == list(CLASSES)
    assert len(images) == 20
    assert labels(images) == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5


def test_a_tar_holds_what_its_folder_holds(folder, tmp_path):
    archive = open_images(str(write_tar(tmp_path / "d.tar", folder)), RGB)
    plain = open_images(str(folder), RGB)
    assert archive.classes == plain.classes
    assert labels(archive) == labels(plain)
    assert torch.equal(pixels(archive), pixels(plain))


def test_nothing_is_written_beside_a_tar(folder, tmp_path):
    write_tar(tmp_path / "d.tar", folder)
    assert len(pixels(open_images(str(tmp_path / "d.tar"), RGB))) == 20
    assert names(tmp_path) == ["d.tar"]


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_flat_images_are_unlabelled(kind, tmp_path):
    source = write_images(tmp_path / "flat", classes=(), each=3)
    if kind == "tar":
        source = write_tar(tmp_path / "flat.tar", source)
    images = open_images(str(source), RGB)
    assert images.classes is None
    (batch,) = images.batches(8)
    assert len(batch) == 1
    assert batch[0].shape == (3, 3, SIZE, SIZE)


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG"])
def test_common_file_names_are_found(suffix, tmp_path):
    source = write_images(tmp_path / "flat", classes=(), each=2)
    for path in source.iterdir():
        path.rename(path.with_suffix(f".{suffix}"))
    assert len(open_images(str(source), RGB)) == 2


def test_digits_are_split_into_two_disjoint_parts():
    known, held_out = (open_images("digits", DIGITS, held_out=part) for part in (False, True))
    assert len(held_out) == HELD_OUT_DIGITS
    assert len(known) + len(held_out) == 1797
    rows = [{tuple(x.flatten().tolist()) for x in pixels(part)} for part in (known, held_out)]
    assert rows[0] & rows[1] == set()
    assert known.classes == [str(digit) for digit in range(10)]


def test_digits_have_the_size_and_range_asked_for():
    images = open_images("digits", DIGITS.model_copy(update={"input_size": (1, 32, 24)}))
    x, y = next(iter(images.batches(16)))
    assert x.shape == (16, 1, 32, 24)
    assert -1 <= x.min() < 0 < x.max() <= 1
    assert set(y.tolist()) <= set(range(10))


@pytest.mark.parametrize("name", ["nowhere", "file.txt", "empty", "empty.tar", "broken.tar"])
def test_a_source_without_images_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.tar").write_text("hello")
    write_tar(tmp_path / "empty.tar", tmp_path / "empty")
    with pytest.raises(ConvswapError, match=name):
        open_images(name, RGB)


@pytest.mark.parametrize("channels", [2, 4])
def test_a_network_of_other_channels_than_images_have_is_refused(channels, folder):
    wanted = Preprocess(input_size=(channels, 8, 8), mean=(0.5,) * channels, std=(1,) * channels)
    with pytest.raises(ConvswapError, match=f"{channels} channels; images have 1 or 3"):
        open_images(str(folder), wanted)


def test_digits_for_a_network_of_three_channels_are_refused_or_gray():
    try:
        x = pixels(open_images("digits", RAW))
    except ConvswapError:
        return
    assert x.shape[1:] == (3, SIZE, SIZE)
    assert torch.equal(x[:, 0], x[:, 2])


def test_missing_scikit_learn_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConvswapError, match=r"convswap\[demo\]"):
        open_images("digits", DIGITS)


# --- pixels ---------------------------------------------------------------------------------


def test_pixels_are_normalised_by_mean_and_deviation(tmp_path):
    Image.new("RGB", (SIZE, SIZE), (255, 0, 51)).save(tmp_path / "a.png")
    wanted = Preprocess(input_size=(3, SIZE, SIZE), mean=(0.5, 0.5, 0.1), std=(0.5, 0.25, 0.1))
    x = pixels(open_images(str(tmp_path), wanted))
    assert x[0, :, 3, 3].tolist() == pytest.approx([1, -2, 1], abs=1e-5)


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA", "CMYK"])
def test_images_of_every_mode_become_colour(mode, tmp_path):
    name = "a.jpg" if mode == "CMYK" else "a.png"
    Image.new("RGB", (SIZE, SIZE), (255, 255, 255)).convert(mode).save(tmp_path / name)
    x = pixels(open_images(str(tmp_path), RAW))
    assert x.shape == (1, 3, SIZE, SIZE)
    assert x.min() > 0.98


def test_a_palette_is_looked_up(tmp_path):
    image = Image.new("P", (SIZE, SIZE), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "a.png")
    assert pixels(open_images(str(tmp_path), RAW))[0, :, 0, 0].tolist() == [1, 0, 0]


def test_colour_images_become_gray_for_a_network_of_one_channel(tmp_path):
    Image.new("RGB", (SIZE, SIZE), (255, 0, 0)).save(tmp_path / "a.png")
    said = []
    x = pixels(open_images(str(tmp_path), GRAY, note=said.append))
    assert x.shape == (1, 1, SIZE, SIZE)
    assert x[0, 0, 0, 0].item() == pytest.approx((76 / 255 - 0.5) / 0.5, abs=0.01)
    assert [line for line in said if "the brightness alone" in line] == said != []


def test_of_gray_images_for_a_network_of_one_channel_nothing_is_said(tmp_path):
    Image.new("L", (SIZE, SIZE), 9).save(tmp_path / "a.png")
    said = []
    open_images(str(tmp_path), GRAY, note=said.append)
    assert not said


def test_images_of_any_size_come_at_the_input_size(tmp_path):
    for index, size in enumerate([(40, 20), (9, 30), (SIZE, SIZE)]):
        Image.new("RGB", size, (9, 9, 9)).save(tmp_path / f"{index}.png")
    assert pixels(open_images(str(tmp_path), RGB)).shape == (3, 3, SIZE, SIZE)


def test_images_of_the_input_size_are_read_to_the_pixel(tmp_path):
    write_images(tmp_path, classes=(), each=1)
    with Image.open(tmp_path / "00.png") as image:
        wanted = torch.tensor(list(image.tobytes())).reshape(SIZE, SIZE, 3).permute(2, 0, 1) / 255
    assert torch.allclose(pixels(open_images(str(tmp_path), RAW))[0], wanted, atol=1e-6)


def test_training_images_are_cropped_at_random_and_others_are_not(folder):
    plain = open_images(str(folder), CROPPED)
    assert torch.equal(pixels(plain), pixels(plain))
    random = open_images(str(folder), CROPPED, train=True)
    assert torch.equal(pixels(random), pixels(random))  # the seed decides the crops
    epochs = random.batches(64)
    first, second = (torch.cat([x for x, *_ in epochs]) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("size", [(SIZE, SIZE), (2 * SIZE, SIZE), (SIZE, 3 * SIZE)])
def test_training_images_are_seen_at_the_scale_of_others(tmp_path, size):
    """A crop of a resized image would be one the original was not made for."""
    write_images(tmp_path, classes=(), each=1, size=size)
    with Image.open(tmp_path / "00.png") as image:
        whole = torch.tensor(list(image.tobytes())).reshape(*size[::-1], 3).permute(2, 0, 1) / 255
    windows = whole.unfold(1, SIZE, 1).unfold(2, SIZE, 1).flatten(1, 2)
    found = [pixels(open_images(str(tmp_path), RAW, train=True), seed=seed) for seed in range(8)]
    places = {
        int((windows - x.transpose(0, 1)).abs().amax((0, 2, 3)).lt(1e-6).nonzero().squeeze())
        for x in found
    }
    assert (len(places) > 1) == (windows.shape[1] > 1)


@pytest.mark.parametrize(("size", "parts"), [((SIZE, SIZE), False), ((3 * SIZE, 3 * SIZE), True)])
def test_parts_of_large_images_are_seen_by_themselves_in_training(tmp_path, size, parts):
    """Down to a third or so of the image, and never enlarged."""
    Image.linear_gradient("L").resize(size).convert("RGB").save(tmp_path / "0.png")
    images = open_images(str(tmp_path), RAW, train=True)
    heights = [float(x.amax() - x.amin()) for x in (pixels(images, seed=s)[0] for s in range(32))]
    assert (min(heights) < 0.75) == parts
    assert min(heights) > 0.5


# --- order ----------------------------------------------------------------------------------


def test_a_count_takes_so_many_images_and_the_same_every_time(folder):
    images = open_images(str(folder), RGB)
    first = pixels(images, count=7, seed=3)
    assert len(first) == 7
    assert torch.equal(first, pixels(images, count=7, seed=3))
    assert not torch.equal(first, pixels(images, count=7, seed=4))


def test_a_count_draws_from_all_classes(folder):
    assert len(set(labels(open_images(str(folder), RGB), count=12))) == len(CLASSES)


def test_only_some_images_are_read_where_they_are_named(folder):
    images = open_images(str(folder), RAW)
    everything = pixels(images)
    assert torch.equal(pixels(images, only=[7, 2]), everything[[7, 2]])


@pytest.mark.parametrize("start", [0, 1, 3])
def test_a_pass_that_starts_later_leaves_out_the_first_batches(folder, start):
    whole, rest = (
        open_images(str(folder), CROPPED, train=True).batches(4, shuffle=True) for _ in range(2)
    )
    wanted = [x for x, _ in whole][start:]
    rest.start = start
    assert all(map(torch.equal, wanted, [x for x, _ in rest]))
    assert len(list(rest)) == len(whole)  # the next pass is whole again


def test_shares_of_batches_make_up_the_whole(folder):
    def read(share):
        images = open_images(str(folder), RAW).batches(6, shuffle=True, share=share)
        return len(images), [x for x, _ in images]

    (steps, first), (same, second), (_, whole) = read((0, 2)), read((1, 2)), read((0, 1))
    assert steps == same == len(first) == len(second)
    together, wanted = (torch.cat(part).flatten(1) for part in (first + second, whole))
    assert torch.equal(together.unique(dim=0), wanted.unique(dim=0))


@pytest.mark.parametrize(("each", "apart"), [(1, 0), (5, 2), (10, 5)])
def test_training_leaves_some_images_apart_to_judge_by(tmp_path, each, apart):
    write_images(tmp_path, each=each)
    training, judges = training_batches(str(tmp_path), RAW, 4)
    assert len(judges.order) == apart
    assert sorted([*training.order, *judges.order]) == [*range(4 * each)]
    assert sum(len(x) for x, _ in training) == 4 * each - apart
    plain = pixels(open_images(str(tmp_path), RAW))
    assert all((x == plain).flatten(1).all(1).any() for batch, _ in judges for x in batch)


@pytest.mark.parametrize(("images", "size"), [(3, 16), (300, 21), (2000, 64)])
def test_few_images_are_trained_on_in_small_batches(tmp_path, images, size):
    np.save(tmp_path / "x.npy", np.zeros((images, 1, 2, 2), np.float32))
    training, judges = training_batches(
        str(tmp_path / "x.npy"), Preprocess(input_size=(1, 2, 2), mean=(0,), std=(1,))
    )
    assert training.batch_size == judges.batch_size == size


def test_a_count_above_all_takes_all(folder):
    assert len(pixels(open_images(str(folder), RGB), count=1000)) == 20


def test_shuffled_epochs_differ_and_come_again(folder):
    images = open_images(str(folder), RGB)
    batches = images.batches(4, shuffle=True, seed=1)
    epochs = [torch.cat([y for _, y in batches]).tolist() for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert all(sorted(epoch) == labels(images) for epoch in epochs)
    again = images.batches(4, shuffle=True, seed=1)
    assert [torch.cat([y for _, y in again]).tolist() for _ in range(3)] == epochs


def test_an_epoch_comes_again_by_its_number(folder):
    images = open_images(str(folder), CROPPED, train=True)
    batches = images.batches(4, shuffle=True)
    first, second = ([x for x, _ in batches] for _ in range(2))
    batches.epoch = 1
    for wanted, (found, _) in zip(second, batches, strict=True):
        assert torch.equal(wanted, found)
    assert not torch.equal(first[0], second[0])


def test_worker_processes_change_nothing(folder):
    images = open_images(str(folder), RGB)
    assert torch.equal(pixels(images, workers=1), pixels(images))


@pytest.mark.parametrize(("size", "number"), [(1, 20), (4, 5), (6, 4), (50, 1)])
def test_the_number_of_batches_is_known_beforehand(size, number, folder):
    batches = open_images(str(folder), RGB).batches(size)
    assert len(batches) == len(list(batches)) == number


# --- images that cannot be read -------------------------------------------------------------


def spoil(folder, number: int) -> None:
    for path in sorted(folder.rglob("*.png"))[:number]:
        truncate(path)


def test_a_few_unreadable_images_are_skipped_and_counted(tmp_path):
    spoil(write_images(tmp_path / "d", each=5), 1)  # of 20: 5 %
    images = open_images(str(tmp_path / "d"), RGB)
    assert labels(images) == [0] * 4 + [1] * 5 + [2] * 5 + [3] * 5
    assert images.skipped == 1


def test_more_unreadable_images_are_an_error(tmp_path):
    spoil(write_images(tmp_path / "d", each=5), 2)
    with pytest.raises(ConvswapError, match=r"2 of 20 images cannot be read \(.*d\)"):
        pixels(open_images(str(tmp_path / "d"), RGB))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_every_kind_of_rubbish_is_an_unreadable_image(content, tmp_path):
    write_images(tmp_path / "d", each=5)
    (tmp_path / "d" / "bee" / "01.png").write_bytes(content)
    images = open_images(str(tmp_path / "d"), RGB)
    assert len(pixels(images)) == 19
    assert images.skipped == 1


def test_an_unreadable_image_in_a_tar_is_skipped(tmp_path, folder):
    with tarfile.open(write_tar(tmp_path / "d.tar", folder), "a") as archive:
        member = tarfile.TarInfo("ant/zz.png")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"hello"))
    images = open_images(str(tmp_path / "d.tar"), RGB)
    assert len(pixels(images)) == 20
    assert images.skipped == 1


def test_a_batch_of_unreadable_images_alone_is_left_out(tmp_path):
    spoil(write_images(tmp_path / "d", each=10), 2)
    batches = open_images(str(tmp_path / "d"), RGB).batches(2)
    assert [len(x) for x, _ in batches] == [2] * 19


# --- the size images have -------------------------------------------------------------------


def test_the_size_of_equal_images_is_found(tmp_path):
    write_images(tmp_path, classes=(), each=2, size=(20, 12))
    assert native_size(str(tmp_path), 3) == (3, 12, 20)
    assert native_size(str(tmp_path), 1) == (1, 12, 20)


def test_images_of_different_sizes_have_no_size_in_common(tmp_path):
    for index, size in enumerate([(8, 8), (9, 8)]):
        Image.new("RGB", size).save(tmp_path / f"{index}.png")
    assert native_size(str(tmp_path), 3) is None


def test_an_unreadable_image_does_not_hide_the_size_of_the_others(tmp_path):
    write_images(tmp_path, classes=(), each=4)
    (tmp_path / "00.png").write_bytes(b"hello")
    assert native_size(str(tmp_path), 3) == (3, SIZE, SIZE)


@pytest.mark.parametrize("train", [False, True])
def test_an_image_smaller_than_the_crop_has_a_border(train):
    """timm's volo is judged on images of 1/1.15 of the size, with a border of zeros."""
    bordered = RAW.model_copy(update={"input_size": (3, 30, 30), "crop_pct": 1.25})
    seen = ImageTransform(bordered, train)(Image.new("RGB", (60, 60), (255, 255, 255)))
    assert seen.shape == (3, 30, 30)
    inside = (seen > 0.5).all(0)
    assert inside.sum() == 24 * 24
    assert train or inside[3:27, 3:27].all()  # else somewhere


@pytest.mark.parametrize(("mode", "seen"), [
    ("center", [0, 0, 0, 0]),  # the middle
    ("squash", [1, 0, 0, 1]),  # all of it, narrower
    ("border", [0.4, 0, 0, 0.4]),  # all of it, smaller
])  # fmt: skip
def test_images_of_other_proportions_are_read_as_the_network_wants_them(mode, seen):
    """Its left and right quarters are white."""
    image = Image.new("RGB", (64, 16), "white")
    image.paste((0, 0, 0), (16, 0, 48, 16))
    size = {"input_size": (3, 16, 16), "interpolation": "nearest", "mean": (0.4,) * 3}
    x = ImageTransform(RAW.model_copy(update=size | {"crop_mode": mode}), False)(image) + 0.4
    line = x[0, :, 8] if mode == "border" else x[0, 8]
    assert line[[0, 7, 8, 15]].tolist() == pytest.approx(seen, abs=0.01)


def test_timm_says_that_images_are_squashed():
    assert (
        declared_preprocess(open_structure("timm:convnext_tiny.in12k_ft_in1k_384")).crop_mode
        == "squash"
    )


def test_networks_that_are_judged_with_a_border_open():
    assert declared_preprocess(open_structure("timm:volo_d4_448")).crop_pct == 1.15


@pytest.mark.parametrize("settings", [
    {"input_size": (3, 1024, 1024), "crop_pct": 0.01}, {"input_size": (3, 1, 1 << 20)},
])  # fmt: skip
def test_an_image_is_not_enlarged_without_bounds(settings):
    transform = ImageTransform(Preprocess(**settings), False)
    with pytest.raises(DataError, match=r"16 x 16 pixels, at the size .* more than 67,108,864"):
        transform(Image.new("RGB", (16, 16)))
