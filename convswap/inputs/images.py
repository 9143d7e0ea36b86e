"""Inputs as batches: images or arrays of a folder, a tar or a file, or scikit-learn's digits."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import DataError
from ..record import Preprocess
from .arrays import ArrayFile, ArrayTransform, is_array_file, read_array, scaling
from .digits import Digits
from .pixels import ImageTransform, read_colour, read_gray, size_of
from .sources import Source, open_source, shown

APART = 256  # images at most, and an eighth of all, that training leaves out
UNREADABLE = 0.05  # the share of images that may fail before it is an error; one may always


class Images:
    """Images, or arrays, of one source, read as a network wants them.

    Attributes:
        classes: class names in label order; None if the images are unlabelled.
        notes: what was decided about the source, a line each, for the person to see.
        skipped: how many unreadable images were left out so far.
        problem: which was the first of them, and why.
    """

    def __init__(
        self, name: str, items: Dataset, classes: list[str] | None, notes: Sequence[str] = ()
    ):
        self.name, self.items, self.classes, self.notes = name, items, classes, notes
        self.skipped, self.problem = 0, ""

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

    def collate(self, items: list[tuple[Tensor, int] | str]) -> tuple[Tensor, Tensor, list[str]]:
        good = [item for item in items if not isinstance(item, str)]
        x = torch.stack([image for image, _ in good]) if good else torch.empty(0)
        labels = torch.tensor([label for _, label in good])
        return x, labels, [item for item in items if isinstance(item, str)]


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
        skipped = []
        for x, labels, failed in loader:
            skipped += failed
            if len(x):
                yield (x, labels) if self.images.classes else (x,)
        if not skipped:
            return
        self.images.skipped += len(skipped)
        self.images.problem = self.images.problem or skipped[0]
        if len(skipped) == len(order) or len(skipped) > max(1, UNREADABLE * len(order)):
            raise DataError(
                f"{len(skipped)} of {len(order)} images cannot be read",
                where=self.images.name,
                do=f"remove or repair them; the first is {skipped[0]}",
            )


def open_images(
    source: str,
    preprocess: Preprocess,
    *,
    train: bool = False,
    held_out: bool = False,
) -> Images:
    """Open images, or arrays, to be read as a network wants them.

    Args:
        source: a folder (of class folders, or flat and then unlabelled) or a `.tar` of images, or
            of `.npy` files that hold one input each; a `.npy` or `.npz` file of many inputs
            (see `ArrayFile`); or `digits`.
        train: crop and flip images at random, for distillation.
        held_out: those to judge by: of a folder with `train/` and `val/` the latter, of `digits`
            those never used for training or calibration.

    Raises:
        DataError: nothing is there, or it does not fit the network's channels.
    """
    if source == "digits":
        return Images(source, Digits(preprocess, held_out), [str(i) for i in range(10)])
    if is_array_file(source):
        file = ArrayFile(Path(source))
        names = [f"number {index}" for index in range(len(file.x))]
        items = _Items(names, file.labels, file.read, ArrayTransform(preprocess))
        return Images(source, items, file.classes, scaling(file.x))
    found = open_source(source, held_out)
    if found.arrays:
        items = _Items(
            found.files, found.labels, _Read(found, read_array), ArrayTransform(preprocess)
        )
        return Images(source, items, found.classes, [*found.notes, *scaling(_first_array(found))])
    channels = preprocess.input_size[0]
    if channels not in (1, 3):
        raise DataError(f"the network wants {channels} channels; images have 1 or 3")
    read = _Read(found, read_colour if channels == 3 else read_gray)
    items = _Items(found.files, found.labels, read, ImageTransform(preprocess, train))
    return Images(source, items, found.classes, found.notes)


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
    found = open_source(source)
    sizes = set()
    for index in range(min(16, len(found.files))):
        try:
            sizes.add(_Read(found, size_of)(index))
        except (OSError, DataError):
            continue
    return (channels, *sizes.pop()) if len(sizes) == 1 else None


def array_preprocess(source: str) -> Preprocess | None:
    """How arrays are read unless more is said: as they are, at their own shape. None of images."""
    if source == "digits":
        return None
    if is_array_file(source):
        shape = ArrayFile(Path(source)).x.shape[1:]
    else:
        found = open_source(source)
        if not found.arrays:
            return None
        shape = _first_array(found).shape
    channels = shape[0] if len(shape) > 1 else 1
    return Preprocess(input_size=shape, mean=(0,) * channels, std=(1,) * channels)


def _first_array(found: Source) -> np.ndarray:
    read = _Read(found, read_array)
    try:
        return read(0)
    except (OSError, DataError) as error:
        raise DataError(f"cannot read {shown(found.files[0])}: {_reason(error)}") from None


class _Items(Dataset):
    """Items `(x, label)`, or where one cannot be read, a line that says which and why."""

    def __init__(
        self,
        names: Sequence[str],
        labels: Sequence[int],
        read: Callable[[int], Any],
        transform: Callable[[Any], Tensor],
    ):
        self.names, self.labels, self.read, self.transform = names, labels, read, transform

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int] | str:
        index, seed = key
        try:
            value = self.read(index)
            with _seeded(seed):
                x = self.transform(value)
            if not torch.isfinite(x).all():
                raise DataError("it holds NaN or infinite values")
        except (OSError, DataError) as error:
            return f"{shown(self.names[index])}: {_reason(error)}"
        return x, self.labels[index]


class _Read:
    """Reads files of a source by their number."""

    def __init__(self, source: Source, read: Callable):
        self.source, self.read = source, read

    def __call__(self, index: int) -> Any:
        with self.source.open(self.source.files[index]) as stream:
            return self.read(stream)


def _reason(error: OSError | DataError) -> str:
    return error.message if isinstance(error, DataError) else error.strerror or "cannot be opened"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random crops and flips of one image decided by a seed, wherever it is loaded."""
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            yield
    finally:
        random.setstate(state)
