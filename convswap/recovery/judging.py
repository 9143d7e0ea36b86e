"""How close a network has come, and what is kept of the way there."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..network.calls import Batch
from ..network.outputs import Reference, tensors
from ..support.files import new_file

Judge = Callable[[nn.Module], float]
"""What a network is to be judged by; less is better."""


@dataclass(frozen=True)
class Judgement:
    """How far a run had come after some steps.

    Attributes:
        step, steps: how many were made, and how many are to be.
        trained: the judge's verdict on the network as trained so far.
        averaged: on the moving average of its weights.
        best: on what is kept so far, be it the start.
        loss, output, within: what was trained on and its two parts, mean since the last judgement.
        lr: learning rate.
        images_per_second: of training, by all processes together.
        reading: the share of that time spent waiting for images.
    """

    step: int
    steps: int
    trained: float
    averaged: float
    best: float
    loss: float = 0.0
    output: float = 0.0
    within: float = 0.0
    lr: float = 0.0
    images_per_second: float = 0.0
    reading: float = 0.0


def summary(history: Sequence[Mapping[str, float]]) -> str:
    """What came of a run, in one line; the first row is the start.

    Args:
        history: judgements as plain data.
    """
    start, last = history[0], history[-1]
    if last["best"] >= start["best"]:
        return "no step came closer to the original: the network is kept as it was"
    return (
        f"distance to the original {start['best']:.4g} -> {last['best']:.4g} in {last['step']} "
        f"steps, {last['images_per_second']:.0f} images per second"
    )


def write_history(history: Sequence[Mapping[str, float]], folder: str | Path) -> None:
    """Write `history.csv` and `history.json`, a row for each judgement."""
    folder = Path(folder)
    with new_file(folder / "history.json") as temporary:
        temporary.write_text(json.dumps(list(history), indent=1) + "\n", encoding="utf-8")
    with new_file(folder / "history.csv") as temporary:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, [field.name for field in fields(Judgement)])
            table.writeheader()
            table.writerows(history)


def with_labels(reference: Reference, batches: Sequence[Batch]) -> Judge:
    """Judges by the distance to the original and the cross-entropy of the labels."""

    @torch.no_grad()
    def judge(network: nn.Module) -> float:
        total = sum(
            F.cross_entropy(tensors(batch.run(network))[0], batch.labels, reduction="sum").item()
            for batch in batches
        )
        return reference.distance(network) + total / sum(map(len, batches))

    return judge
