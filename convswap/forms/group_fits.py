"""The fit of a layer whose channels are in groups: that of every group by itself.

A layer that is not grouped has one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..plans import Rank
from . import FORMS
from .layer import Kernel
from .least_squares import LeastSquares


@dataclass(frozen=True)
class GroupFits:
    """The problems of all groups of a layer.

    Attributes:
        kernel: of one group.
    """

    problems: Sequence[LeastSquares]
    kernel: Kernel

    def fit(self, form: str, rank: Rank, steps: int) -> list[list[Tensor]]:
        """For every group, the weights of a form's layers that solve its problem best."""
        return [FORMS[form].fit(p, self.kernel, rank, steps) for p in self.problems]

    def spell(self, form: str, weights: Sequence[Sequence[Tensor]]) -> Tensor:
        """The dense kernel `[out, D]` of all groups that weights amount to."""
        return torch.cat([FORMS[form].spell(mine, self.kernel) for mine in weights])

    def gaps(self, form: str, weights: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """For every group, what weights amount to less what is wanted, `[out, D]`."""
        return [
            FORMS[form].spell(mine, self.kernel) - problem.target
            for mine, problem in zip(weights, self.problems, strict=True)
        ]

    def damage(self, gaps: Sequence[Tensor], curvature: Tensor) -> float:
        """1/2 tr(G dW S dW^T) of changes dW, summed over groups.

        Args:
            curvature: G, `[out, out]` of all groups.
        """
        total, out = 0.0, self.kernel.out_channels
        for group, (gap, problem) in enumerate(zip(gaps, self.problems, strict=True)):
            mine = slice(group * out, (group + 1) * out)
            gain = curvature[mine, mine].to(gap)
            total += 0.5 * ((gain @ gap @ problem.moment) * gap).sum().item()
        return total


def joined(weights: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The weights of a form's layers for all groups at once."""
    return [torch.cat(layer) for layer in zip(*weights, strict=True)]
