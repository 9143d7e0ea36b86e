"""Figures of closeness, summed up batch by batch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ModelError
from ..network.outputs import kl
from ..plans import Kind
from ..recovery.labels import scores_of


class Figures:
    """How close outputs are to others, as `fidelity` tells it.

    Attributes:
        images: how many were seen.
    """

    def __init__(self, kind: Kind):
        self.kind, self.images = kind, 0
        self._error = self._square = self._kl = 0.0
        self._values = self._same = 0
        self._sums: dict[int, Tensor] = {}  # by the number of values of an image
        self._counts: Counter[int] = Counter()

    def add(self, ours: Sequence[Tensor], theirs: Sequence[Tensor], images: int) -> None:
        """Count in the outputs on a batch.

        Raises:
            ModelError: they cannot be compared.
        """
        if not theirs:
            raise ModelError("the network puts out no floating-point tensor")
        if [each.shape for each in ours] != [each.shape for each in theirs]:
            raise ModelError("the networks' outputs differ in number or shape")
        rows, wanted = _rows(ours, images), _rows(theirs, images)
        self._error += (rows - wanted).pow(2).sum().item()
        self._square += wanted.pow(2).sum().item()
        width = wanted.shape[1]
        self._sums[width] = self._sums.get(width, 0) + wanted.sum(0)
        self._counts[width] += images
        if self.kind == "logits":
            scores, known = scores_of(ours).cpu(), scores_of(theirs).cpu()
            self._kl += kl(scores, known).item() * images
            self._same += (scores.argmax(1) == known.argmax(1)).sum().item()
        self.images += images
        self._values += wanted.numel()
        if not math.isfinite(self._error + self._square + self._kl):
            raise ModelError("the networks' outputs are too large to be compared")

    def found(self) -> dict[str, float | None]:
        """The figures of all batches."""
        means = sum(
            total.pow(2).sum().item() / self._counts[width] for width, total in self._sums.items()
        )
        found = {
            "images": self.images,
            "r2": 1 - self._error / max(self._square - means, 1e-30),
            "psnr": 10 * math.log10(self._values / self._error) if self._error else None,
        }
        if self.kind == "logits":
            found |= {
                "kl": max(self._kl / self.images, 0.0),
                "agreement": 100 * self._same / self.images,
            }
        return found


def _rows(outputs: Sequence[Tensor], images: int) -> Tensor:
    """All values that belong to an image, side by side."""
    for output in outputs:
        if output.numel() % images:
            shape = list(output.shape)
            raise ModelError(f"an output {shape} is no row for each of {images} images")
    return torch.cat([output.cpu().double().reshape(images, -1) for output in outputs], 1)
