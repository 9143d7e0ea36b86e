"""One input by its number: read and made ready for a network, or a line that says why not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import DataError, one_line
from .sources import Source


class Items(Dataset):
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
            return unreadable(self.names[index], error)
        return x, self.labels[index]


class ReadFile:
    """Reads the files of a source by their number."""

    def __init__(self, source: Source, read: Callable):
        self.source, self.read = source, read

    def __call__(self, index: int) -> Any:
        with self.source.open(self.source.files[index]) as stream:
            return self.read(stream)


def unreadable(name: str, error: OSError | DataError) -> str:
    """Which file could not be read, and why."""
    said = error.message if isinstance(error, DataError) else error.strerror
    return one_line(f"{name}: {said or 'cannot be opened'}")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random crops of one image decided by a seed, wherever it is loaded."""
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            yield
    finally:
        random.setstate(state)
