"""Batches as users have them, made what student and teacher are trained on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from torch import nn

from ..network.calls import Batch, Call, listed, read_batch
from ..network.layout import laid_out
from .labels import class_numbers


def countable(batches: object) -> Collection:
    """Batches that can be counted, and passed over again and again, of what `plan` takes."""
    batches = listed(batches)
    try:
        len(batches)
    except TypeError:  # also a loader of what has no length
        return list(batches)
    return batches


@dataclass(frozen=True)
class Reader:
    """Makes a batch what both networks take.

    Attributes:
        call: how it is passed.
        like: one whose samples are told apart and compared as its are.
        channels_last: whether in that layout.
        classes: how many the labels are of; None where they are not used.
    """

    teacher: nn.Module
    call: Call | None
    like: Batch | None = None
    channels_last: bool = False
    classes: int | None = None

    def __call__(self, batch: object) -> Batch:
        """One batch, which may be empty.

        Raises:
            DataError: it cannot be read, or its labels cannot be used.
        """
        batch = read_batch(self.teacher, batch, self.call)
        batch = batch.like(self.like) if self.like else batch
        if self.classes is not None and len(batch):
            batch = replace(batch, labels=class_numbers(batch, self.classes))
        return laid_out(batch) if self.channels_last else batch

    def full(self, batches: object) -> Iterator[Batch]:
        """Those that are not empty."""
        return (batch for batch in map(self, batches) if len(batch))
