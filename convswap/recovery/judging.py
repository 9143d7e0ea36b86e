"""How close a network has come, and what is kept of the way there."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..network.calls import Batch
from ..network.outputs import Reference, tensors
from ..support.files import new_file

Judge = Callable[[nn.Module], float]
"""What a network is to be judged by; less is better."""

WAITING = 0.25  # share of the time from which on reading images is worth a word


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
        top1, original_top1: percentage of the judging images whose label the network with the
            better verdict names, and the original; None where they have none that fit.
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
    top1: float | None = None
    original_top1: float | None = None

    def line(self) -> str:
        """What a person who waits wants to know."""
        parts = [
            f"step {self.step} of {self.steps}: distance {min(self.trained, self.averaged):.4g}"
        ]
        if self.step:
            parts += [f"loss {self.loss:.4g} (output {self.output:.4g}, within {self.within:.4g})"]
        if self.top1 is not None:
            parts += [f"top-1 {self.top1:.2f} % (original {self.original_top1:.2f} %)"]
        if self.step:
            parts += [f"{self.images_per_second:.0f} images per second"]
        if self.reading >= WAITING:
            parts += [f"{self.reading:.0%} of the time spent on reading them"]
        return ", ".join(parts)


class History:
    """What `distill` may call with its judgements: keeps them, and hands on what is new.

    Attributes:
        rows: judgements as plain data; the first is the start.
    """

    def __init__(self, heard: Sequence[Callable[[Judgement], None]] = ()):
        self.heard = heard
        self.rows: list[dict[str, float | None]] = []

    def __call__(self, judgements: Sequence[Judgement]) -> None:
        for judgement in judgements[len(self.rows) :]:
            self.rows.append(asdict(judgement))
            for hear in self.heard:
                hear(judgement)


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


def write_history(
    history: Sequence[Mapping[str, float]], folder: str | Path
) -> list[dict[str, float]]:
    """Write `history.csv` and `history.json`, a row for each judgement; what the latter holds."""
    folder = Path(folder)
    rows = [{key: value for key, value in row.items() if value is not None} for row in history]
    with new_file(folder / "history.json") as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    with new_file(folder / "history.csv") as temporary:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, [f.name for f in fields(Judgement) if f.name in rows[0]])
            table.writeheader()
            table.writerows(rows)
    return rows


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
