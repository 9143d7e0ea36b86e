"""NumPy arrays going in, for data that are not images: one file of many, or a file for each."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, reason
from ..record import Preprocess
from .folders import JUDGE, TRAIN, part_of

SUFFIXES = (".npy", ".npz")
UNPACKED_BYTES = 1 << 30  # the largest .npz that is read; of a .npy only what is asked for is
CLASSES = 1 << 20  # at most
NAMES = {
    "x": ("x", "image", "images", "img", "imgs", "data", "input", "inputs", "samples"),
    "y": ("y", "label", "labels", "target", "targets", "class", "classes"),
}
LARGEST = {"uint8": 255, "uint16": 65535, "int8": 128, "int16": 32768}  # so 0..1, or -1..1


class ArrayFile:
    """A `.npy` file `[n, ...]`, or a `.npz` of one such array, or of inputs and labels, as `x` and
    `y`, `images` and `labels`, in one part or in several (`x_train`, `val_images`).

    Args:
        held_out: of several parts, take the one to judge by, not to train on.

    Attributes:
        x: the inputs; of a `.npy` no more is read than is used.
        labels: the class of each; zeros without classes.
        classes: their names; None if there are no labels.
        note: which part was taken, if there are several.

    Raises:
        DataError: it cannot be read, holds Python objects (never unpickled), or other arrays.
    """

    def __init__(self, path: Path, held_out: bool = False):
        try:
            packed = path.suffix.lower() == ".npz"
            arrays = unpack(path) if packed else {"x": np.lib.format.open_memmap(path, mode="r")}
        except DataError:
            raise
        except Exception as error:  # what damaged archives make of readers has no common type
            raise DataError(f"cannot read {path}: {reason(error)}") from None
        self.x, labels, self.note = _inputs_and_labels(path, arrays, held_out)
        if self.x.ndim < 2 or not self.x.size:
            raise DataError(f"{path} holds an array of {by(self.x.shape)}, not of [n, ...]")
        self.labels, self.classes = [0] * len(self.x), None
        if labels is not None:
            y = labels.reshape(len(labels)) if labels.size == len(self.x) else labels
            whole = y.dtype.kind in "biu" or (y.dtype.kind == "f" and (y == y.round()).all())
            if y.shape != self.x.shape[:1] or not whole or y.min() < 0:
                raise DataError(f"the labels of {path} are no class number for every input")
            if y.max() >= CLASSES:
                raise DataError(f"a label of {path} is {y.max()}: there may be {CLASSES} classes")
            self.labels = y.astype(np.int64).tolist()
            self.classes = [str(i) for i in range(int(y.max()) + 1)]

    def read(self, index: int) -> np.ndarray:
        """One input."""
        return np.asarray(self.x[index])


def _inputs_and_labels(
    path: Path, arrays: dict[str, np.ndarray], held_out: bool
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """The inputs and labels of one part, by their names, and a line on what was taken."""
    if len(arrays) == 1:
        return arrays.popitem()[1], None, ""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        part, rest = part_of(name)
        found = parts.setdefault(part, {})
        kind = next((kind for kind, names in NAMES.items() if rest in names), name)
        found[name if kind in found else kind] = array
    order = (*JUDGE, *TRAIN) if held_out else (*TRAIN, *JUDGE)
    taken = next((part for part in ("", *order) if part in parts), None)
    found = parts.get(taken, {})
    if "x" not in found or not found.keys() <= NAMES.keys():
        named = ", ".join([*arrays][:5]) + (", ..." if len(arrays) > 5 else "")
        raise DataError(
            f"{path} holds {len(arrays)} arrays ({named})",
            do="name the inputs x and the labels y",
        )
    note = f"of {path}, which has {', '.join(parts)}, {taken} is used" if len(parts) > 1 else ""
    return found["x"], found.get("y"), note


def read_array(stream: BinaryIO) -> np.ndarray:
    """The array of a `.npy` file that holds one input.

    Raises:
        DataError: it is damaged, or holds Python objects.
    """
    try:
        return np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:  # what a damaged header makes of its reader has no common type
        raise DataError(" ".join(str(error).split())) from None


class ArrayTransform:
    """From an array to the input of a network, of the same shape or one of `arrangements`.

    Integers of 8 and 16 bits become fractions of the largest of their type, as in image files;
    longer ones, such as tokens, stay integers; all else becomes float32. Then (x - mean) / std
    along the first axis, but for the longer integers.

    Raises (when called):
        DataError: the array is of another shape, or does not hold real numbers.
    """

    def __init__(self, preprocess: Preprocess):
        self.shape = tuple(preprocess.input_size)
        along = (-1, *[1] * (len(self.shape) - 1))
        self.mean, self.std = (
            torch.tensor(values).view(along) for values in (preprocess.mean, preprocess.std)
        )

    def __call__(self, array: np.ndarray) -> Tensor:
        each = (a for a in arrangements(array) if a.shape == self.shape)
        if (arranged := next(each, None)) is None:
            raise DataError(f"its shape is {by(array.shape)}, not {by(self.shape)}")
        array = arranged
        if array.dtype.kind not in "biuf":
            raise DataError(f"its type is {array.dtype}, which is no real number")
        if array.dtype.kind in "iu" and array.dtype.name not in LARGEST:
            return torch.from_numpy(array.astype(np.int64))
        with np.errstate(over="ignore"):  # the reader looks for infinite values
            x = torch.from_numpy(array.astype(np.float32))
        return (x / LARGEST.get(array.dtype.name, 1) - self.mean) / self.std


def arrangements(array: np.ndarray) -> list[np.ndarray]:
    """An input as it is, and as networks want it whose channels come first: with the last axis in
    front, or with an axis of one channel."""
    first = [np.moveaxis(array, -1, 0)] if array.ndim > 2 else []
    return [array, *first, array[None]]


def is_array_file(source: str) -> bool:
    """Whether a source is one file of many arrays."""
    return Path(source).is_file() and Path(source).suffix.lower() in SUFFIXES


def plain(shape: tuple[int, ...]) -> Preprocess:
    """How inputs of a shape that are no images are read unless more is said: without mean and std.

    Raises:
        ValidationError: no input can have such a shape.
    """
    channels = shape[0] if len(shape) > 1 else 1
    return Preprocess(input_size=shape, mean=(0,) * channels, std=(1,) * channels)


def by(shape: tuple[int, ...]) -> str:
    """A shape in words: 4x64x64."""
    return "x".join(map(str, shape)) or "one number"


def unpack(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file, by name.

    Raises:
        DataError: it holds a name twice, or unpacks to very much.
        Exception: it is damaged in any other way, or holds Python objects.
    """
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
        names = archive.namelist()
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path} holds {twice[0]} twice")
    if size > UNPACKED_BYTES:
        raise DataError(
            f"{path} unpacks to more than {UNPACKED_BYTES >> 30} GiB", do="save its arrays as .npy"
        )
    with np.load(path, allow_pickle=False) as arrays:
        return {name: each for name, each in arrays.items() if isinstance(each, np.ndarray)}
