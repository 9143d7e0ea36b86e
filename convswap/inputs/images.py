"""Images going in: a folder, a tar of class folders, or scikit-learn's digits."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from timm.data import create_transform
from timm.data.readers import create_reader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import DataError
from ..record import Preprocess

APART = 256  # images at most, and an eighth of all, that training leaves out
UNREADABLE = 0.05  # the share of images that may fail before it is an error; one may always
HELD_OUT_DIGITS = 597  # of 1,797: never used to train, calibrate or distil


class Images:
    """Images of one source, read as a network wants them.

    Attributes:
        classes: class names in label order; None if the images are unlabelled.
        skipped: how many unreadable images were left out so far.
    """

    def __init__(self, name: str, items: Dataset, classes: list[str] | None):
        self.name, self.items, self.classes = name, items, classes
        self.skipped = 0

    def __len__(self) -> int:
        return len(self.items)

    def batches(
        self,
        batch_size: int,
        *,
        count: int | None = None,
        skip: int = 0,
        shuffle: bool = False,
        seed: int = 0,
        workers: int = 0,
    ) -> Batches:
        """Batches `(x, labels)`, or `(x,)` without labels; the same every time, per epoch.

        Args:
            count: take only so many images, drawn by `seed`.
            skip: leave out those that a `count` as large would take first.
            shuffle: another order every epoch; `seed` decides it, and every crop and flip.
        """
        return Batches(self, batch_size, count, skip, shuffle, seed, workers)

    def collate(self, items: list[tuple[Tensor, int] | None]) -> tuple[Tensor, Tensor, int]:
        good = [item for item in items if item is not None]
        x = torch.stack([image for image, _ in good]) if good else torch.empty(0)
        return x, torch.tensor([label for _, label in good]), len(items) - len(good)


class Batches:
    """A seeded, repeatable pass over images; iterate as often as you like."""

    def __init__(self, images, batch_size, count, skip, shuffle, seed, workers):
        self.images, self.batch_size, self.shuffle = images, batch_size, shuffle
        self.seed, self.workers, self.epoch = seed, workers, 0
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        some = count is not None or skip
        self.order = order[skip:][:count].tolist() if some else range(len(images))

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        order, seed = self.order, self.seed + 1_000_003 * self.epoch
        self.epoch += 1
        if self.shuffle:
            shuffled = torch.randperm(len(order), generator=torch.Generator().manual_seed(seed))
            order = [order[i] for i in shuffled.tolist()]
        loader = DataLoader(
            self.images.items,
            self.batch_size,
            sampler=[(index, seed + index) for index in order],
            num_workers=self.workers,
            collate_fn=self.images.collate,
        )
        skipped = 0
        for x, labels, failed in loader:
            skipped += failed
            if len(x):
                yield (x, labels) if self.images.classes else (x,)
        self.images.skipped += skipped
        if skipped > max(1, UNREADABLE * len(order)):
            raise DataError(
                f"{skipped} of {len(order)} images cannot be read",
                where=self.images.name,
                do="remove or repair them",
            )


def open_images(
    source: str,
    preprocess: Preprocess,
    *,
    train: bool = False,
    held_out: bool = False,
) -> Images:
    """Open images to be read at a network's input size.

    Args:
        source: a folder (of class folders, or flat and then unlabelled), a `.tar` of class
            folders, or `digits`.
        train: crop and flip at random, for distillation.
        held_out: of `digits`, the images never used for training or calibration.

    Raises:
        DataError: nothing is there, or it does not fit the network's channels.
    """
    channels = preprocess.input_size[0]
    if channels not in (1, 3):
        raise DataError(f"the network wants {channels} channels; images have 1 or 3")
    if source == "digits":
        if channels != 1:
            raise DataError(f"digits are images of 1 channel; the network wants {channels}")
        return Images(source, _Digits(preprocess, held_out), [str(i) for i in range(10)])
    reader = _open_reader(source)
    names = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", {})
    classes = sorted(names, key=names.get)
    augment: dict[str, Any] = {}
    if train:
        augment = {"is_training": True, "scale": (0.6, 1.0), "ratio": (0.9, 1.1),
                   "color_jitter": None}  # fmt: skip
    transform = create_transform(
        input_size=preprocess.input_size,
        mean=preprocess.mean,
        std=preprocess.std,
        interpolation=preprocess.interpolation,
        crop_pct=preprocess.crop_pct,
        **augment,
    )
    mode = "RGB" if channels == 3 else "L"
    return Images(source, _Read(reader, transform, mode), classes if len(classes) > 1 else None)


def training_batches(
    source: str, preprocess: Preprocess, batch_size: int, *, seed: int = 0, workers: int = 0
) -> tuple[Batches, Batches]:
    """Batches to train on, cropped, flipped and shuffled at random, and a few images kept apart
    to judge the result by, as they are (none if there are fewer than eight)."""
    images = open_images(source, preprocess, train=True)
    apart = min(APART, len(images) // 8)
    training = images.batches(batch_size, skip=apart, shuffle=True, seed=seed, workers=workers)
    judges = open_images(source, preprocess).batches(batch_size, count=apart, seed=seed)
    return training, judges


def native_size(source: str, channels: int) -> tuple[int, int, int] | None:
    """The size all of the first images of a source have, or None if they differ."""
    if source == "digits":
        return (1, 32, 32)
    reader = _open_reader(source)
    sizes = set()
    for index in range(min(16, len(reader))):
        try:
            with reader[index][0] as stream, Image.open(stream) as image:
                sizes.add(image.size)
        except (OSError, UnidentifiedImageError):
            continue
    _close(reader)
    if len(sizes) != 1:
        return None
    width, height = sizes.pop()
    return channels, height, width


def _open_reader(source: str):
    path = Path(source)
    if not path.exists():
        raise DataError(f"no such folder or .tar file: {source}")
    if path.is_file() and path.suffix != ".tar":
        raise DataError(f"{source} is neither a folder nor a .tar file")
    try:
        # subtle: timm would cache the index of a large tar as a pickle beside it
        extra = {"cache_tarinfo": False} if path.is_file() else {}
        return create_reader("", root=str(path), **extra)
    except Exception:  # what timm raises depends on how it finds nothing
        raise DataError(f"no images in {source}", do="put .jpg or .png files there") from None


class _Read(Dataset):
    """Items of a timm reader: `(image, label)`, or None where the file cannot be read."""

    def __init__(self, reader, transform: Callable, mode: str):
        self.reader, self.transform, self.mode = reader, transform, mode
        weakref.finalize(self, _close, reader)

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int] | None:
        index, seed = key
        try:
            stream, label = self.reader[index]
            with stream, Image.open(stream) as image:
                pixels = image.convert(self.mode)
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
            return None
        with _seeded(seed):
            return self.transform(pixels), int(label)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random crops and flips of one image decided by a seed, wherever it is loaded."""
    state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        yield
    random.setstate(state)


def _close(reader) -> None:
    """Close the archive that timm's reader of a .tar keeps open."""
    archive = getattr(getattr(reader, "tar_state", None), "tf", None)
    if archive is not None:
        archive.close()


class _Digits(Dataset):
    """scikit-learn's 8x8 handwritten digits, enlarged to the input size."""

    def __init__(self, preprocess: Preprocess, held_out: bool):
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise DataError(
                "the digit images come with scikit-learn", do="pip install 'convswap[demo]'"
            ) from None
        digits = load_digits()
        order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
        chosen = order[:HELD_OUT_DIGITS] if held_out else order[HELD_OUT_DIGITS:]
        images = torch.tensor(digits.images, dtype=torch.float32)[chosen, None] / 16
        images = torch.nn.functional.interpolate(
            images, preprocess.input_size[1:], mode="bilinear", align_corners=False
        )
        self.images = (images - preprocess.mean[0]) / preprocess.std[0]
        self.labels = digits.target[chosen].tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        index, _ = key
        return self.images[index], self.labels[index]
