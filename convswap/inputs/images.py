"""Inputs as batches: images or arrays of a folder, a tar or a file, or scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import DataError
from ..record import Preprocess
from ..support.progress import Note, once, unheard
from .arrays import ArrayFile, ArrayTransform, by, is_array_file, read_array
from .depth import are_coloured, white_of
from .digits import Digits
from .items import Items, ReadFile, unreadable
from .names import DIGITS, SYNTHETIC
from .pixels import ImageTransform, read_colour, read_gray, size_of
from .sources import open_source
from .split import shuffled, to_judge, to_train

BATCH, FEW = 64, 16  # images in a batch to train on, at most and at least, if nothing is said
STEPS = 12  # batches in a pass over few images, if they are large enough
UNREADABLE = 0.05  # the share of images that may fail before it is an error; one may always


class Images:
    """Images, or arrays, of one source, read as a network wants them.

    Attributes:
        classes: class names in label order; None if the images are unlabelled.
        unreadable: those that were left out so far: a line each, which and why.
    """

    def __init__(self, name: str, items: Dataset, classes: list[str] | None, note: Note = unheard):
        self.name, self.items, self.classes, self.note = name, items, classes, note
        self.unreadable: set[str] = set()

    def __len__(self) -> int:
        return len(self.items)

    @property
    def skipped(self) -> int:
        """How many unreadable images were left out so far."""
        return len(self.unreadable)

    def batches(
        self,
        batch_size: int,
        *,
        count: int | None = None,
        only: Sequence[int] | None = None,
        shuffle: bool = False,
        seed: int = 0,
        workers: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> Batches:
        """Batches `(x, labels)`, or `(x,)` without labels; the same every time, per epoch.

        Args:
            count: take only so many images, drawn by `seed`.
            only: indices of the images to take, in place of a count.
            shuffle: another order every epoch; `seed` decides it, and every crop.
            share: `(which, of)`: only this part of every batch; the others are read elsewhere.
        """
        if only is None:
            only = range(len(self)) if count is None else shuffled(len(self), seed)[:count]
        return Batches(self, batch_size, only, shuffle, seed, workers, share)

    def leave_out(self, unreadable: Sequence[str]) -> None:
        """Count images that could not be read, and say so if they are new."""
        if not self.unreadable.issuperset(unreadable):
            self.note(
                f"skipped {len(unreadable)} unreadable images of {self.name}; "
                f"the first is {unreadable[0]}"
            )
        self.unreadable.update(unreadable)

    def collate(self, items: list[tuple[Tensor, int] | str]) -> tuple[Tensor, Tensor, list[str]]:
        good = [item for item in items if not isinstance(item, str)]
        x = torch.stack([image for image, _ in good]) if good else torch.empty(0)
        labels = torch.tensor([label for _, label in good])
        return x, labels, [item for item in items if isinstance(item, str)]


class Batches:
    """A seeded, repeatable pass over images; iterate as often as you like.

    Attributes:
        epoch: the number of the next pass, which decides its order.
        start: how many batches of the next pass to leave out.
    """

    def __init__(self, images, batch_size, order, shuffle, seed, workers, share):
        self.images, self.order, self.shuffle = images, order, shuffle
        self.seed, self.workers, self.share = seed, workers, share
        self.batch_size = max(1, batch_size // share[1])
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return -(-(len(self.order) // self.share[1]) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        order, seed, start = self.order, self.seed + 1_000_003 * self.epoch, self.start
        self.epoch, self.start = self.epoch + 1, 0
        if self.shuffle:
            order = [order[i] for i in shuffled(len(order), seed)]
        which, of = self.share
        order = order[which::of][: len(order) // of][start * self.batch_size :]
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
            if len(skipped) == len(order) or len(skipped) > max(1, UNREADABLE * len(order)):
                raise DataError(
                    f"{len(skipped)} of {len(order)} images cannot be read",
                    where=self.images.name,
                    do=f"remove or repair them; the first is {skipped[0]}",
                )
            if failed:
                self.images.leave_out(failed)
            if len(x):
                yield (x, labels) if self.images.classes else (x,)


def open_images(
    source: str,
    preprocess: Preprocess,
    *,
    train: bool = False,
    held_out: bool = False,
    note: Note = unheard,
) -> Images:
    """Open images, or arrays, to be read as a network wants them.

    Args:
        source: a folder (of class folders, or flat and then unlabelled) or a `.tar` of images, or
            of `.npy` files that hold one input each; a `.npy` or `.npz` file of many inputs
            (see `ArrayFile`); or `digits`.
        train: crop images at random places, for distillation, which mirrors and mixes them.
        held_out: those to judge by: of a folder with `train/` and `val/` the latter, of `digits`
            those never used for training or calibration.
        note: told what was decided about the source, and about images that were left out.

    Raises:
        DataError: nothing is there, or it does not fit the network's channels.
    """
    if source == DIGITS:
        return Images(source, Digits(preprocess, held_out), [str(i) for i in range(10)])
    if is_array_file(source):
        file = ArrayFile(Path(source), held_out)
        if file.note:
            note(file.note)
        names = [f"number {index}" for index in range(len(file.x))]
        items = Items(names, file.labels, file.read, ArrayTransform(preprocess))
        return Images(source, items, file.classes, note)
    found = open_source(source, held_out)
    for line in found.notes:
        note(line)
    if found.arrays:
        read, transform = read_array, ArrayTransform(preprocess)
    else:
        read = partial(_reader(preprocess), white=white_of(source, found, note))
        if preprocess.channels == 1 and are_coloured(found):
            note(f"images of {source} have colours, of which the network sees the brightness alone")
        transform = ImageTransform(preprocess, train)
    items = Items(found.files, found.labels, ReadFile(found, read), transform)
    return Images(source, items, found.classes, note)


def keeps_apart(source: str) -> bool:
    """Whether a source has images to judge by beside those to fit to."""
    if source == DIGITS:
        return True
    if is_array_file(source):
        fitted, judged = (ArrayFile(Path(source), held_out).note for held_out in (False, True))
    else:
        fitted, judged = (open_source(source, held_out).files for held_out in (False, True))
    return fitted != judged


def training_batches(
    source: str,
    preprocess: Preprocess,
    batch_size: int | None = None,
    *,
    seed: int = 0,
    workers: int = 0,
    share: tuple[int, int] = (0, 1),
    note: Note = unheard,
) -> tuple[Batches, Batches]:
    """Batches to train on, cropped at random places and shuffled, and those of the images kept
    apart to judge by, as they are (see `inputs.split`).

    Args:
        batch_size: default: 64, or fewer where there are few images: many steps on some of them
            come further than few steps on more.
    """
    note = once(note)
    images = open_images(source, preprocess, train=True, note=note)
    known = to_train(len(images))
    batch_size = batch_size or min(max(len(known) // STEPS, FEW), BATCH)
    training = images.batches(
        batch_size, only=known, shuffle=True, seed=seed, workers=workers, share=share
    )
    judges = open_images(source, preprocess, note=note)
    return training, judges.batches(batch_size, only=to_judge(len(judges)))


def native_size(source: str, channels: int) -> tuple[int, int, int] | None:
    """The size all of the first images of a source have, or None if they differ."""
    if source == DIGITS:
        return (1, 32, 32)
    if source == SYNTHETIC:
        return None
    found = open_source(source)
    sizes = set()
    for index in range(min(16, len(found.files))):
        try:
            sizes.add(ReadFile(found, size_of)(index))
        except (OSError, DataError):
            continue
    return (channels, *sizes.pop()) if len(sizes) == 1 else None


def first_array(source: str) -> np.ndarray | None:
    """The first array of a source that one can be read of; None if it holds images.

    Raises:
        DataError: none can be read.
    """
    if source in (DIGITS, SYNTHETIC):
        return None
    if is_array_file(source):
        return ArrayFile(Path(source)).read(0)
    found = open_source(source)
    if not found.arrays:
        return None
    read, problem = ReadFile(found, read_array), ""
    for index, name in enumerate(found.files):
        try:
            return read(index)
        except (OSError, DataError) as error:
            problem = problem or unreadable(name, error)
    raise DataError(f"no array of {source} can be read; the first is {problem}")


def _reader(preprocess: Preprocess) -> Callable[..., Image.Image]:
    shape = preprocess.input_size
    if len(shape) != 3:
        raise DataError(f"images have three axes; the network wants {by(shape)}")
    if shape[0] not in (1, 3):
        raise DataError(f"the network wants {shape[0]} channels; images have 1 or 3")
    return read_gray if shape[0] == 1 else read_colour
