"""What a person should know of how a network was looked at."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..network.calls import Batch
from ..network.copies import still_training
from ..network.state import unkept_of
from ..network.wrappers import hidden_in
from .candidates import Candidate
from .kept import Found

NOTHING = 1e-20  # damage that is none


def notes_of(model: nn.Module, batch: Batch, found: Found) -> tuple[str, ...]:
    """A line each.

    Args:
        batch: the first.
    """
    notes, parts = (), batch.match.parts
    if training := still_training(model):
        notes += (
            f"in training mode even after eval(): {some_of(training)}; outputs may depend on "
            "chance, or on the other samples of a batch",
        )
    if lost := hidden_in(model):
        notes += (
            f"{some_of(lost)}: layers in lists or mappings of Python's own are no part of a "
            "network for PyTorch; they are neither replaced nor saved (nn.ModuleList, "
            "nn.ModuleDict are)",
        )
    if odd := unkept_of(model):
        notes += (f"{some_of(odd)}: no tensors that a file can hold; the network cannot be saved",)
    if batch.unused:
        notes += (
            f"not passed to the network: {some_of(batch.unused)}; where it should be, say "
            "call=lambda model, batch: ...",
        )
    if batch.layout.whole:
        notes += ("the samples of a batch cannot be told apart: each batch counts as one",)
    if batch.kept:
        keep = [path or type(model).__name__ for path in batch.kept]
        notes += (
            f"what {some_of(keep)} keeps from one call to the next changes the outputs: every "
            "batch finds it as it was given",
        )
    if parts:
        notes += (
            "the outputs vary in number or shape, or are no floating-point numbers: judged by "
            f"those of {some_of(parts)}",
        )
    if found.cut_off:
        notes += (
            f"no gradient of the output reaches {some_of(found.cut_off)}: judged by what these put "
            "out themselves",
        )
    if missed := [path for path, row in found.options.items() if not row]:
        notes += (f"hardly any image runs through {some_of(missed)}: left alone",)
    if mute := [path for path, row in found.options.items() if row and _worst(row) < NOTHING]:
        notes += (
            f"the output does not depend on {some_of(mute)}: weights after them are zero, as where "
            "a network was not trained",
        )
    return notes


def _worst(row: Sequence[Candidate]) -> float:
    return max(candidate.damage for candidate in row)


def some_of(paths: Sequence[str]) -> str:
    """The first few."""
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
