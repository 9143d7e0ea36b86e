"""Batches in an order that is the same every time, from any step on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..inputs.images import Batches
from ..support.randomness import seeded


def steps(batches: Iterable, seed: int, first: int, last: int) -> Iterator[tuple[int, Any]]:
    """The batch of every step from `first` up to, not including, `last`: pass after pass.

    The random state in which a batch is read is decided by its step, so that a run that was
    interrupted reads what it would have read: also from a `DataLoader` that shuffles.

    Args:
        batches: with a length.
    """
    size = len(batches)
    for number in range(first // size, -(-last // size)) if size else ():
        step = number * size
        if isinstance(batches, Batches):  # which need not read what is passed over
            batches.epoch, batches.start = number, max(first - step, 0)
            step += batches.start
        iterator = iter(batches)
        while step < last:
            with seeded(seed + step):
                batch = next(iterator, None)
            if batch is None:
                break
            if step >= first:
                yield step, batch
            step += 1
