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
from .least_squares import Fitted, LeastSquares, cholesky


@dataclass(frozen=True)
class GroupFits:
    """The problems of all groups of a layer.

    Attributes:
        kernel: of one group.
    """

    problems: Sequence[LeastSquares]
    kernel: Kernel

    def fit(self, form: str, rank: Rank, steps: int, minded: Tensor | None = None) -> list[Fitted]:
        """For every group, a form's layers that solve its problem best.

        Args:
            minded: M `[out, out]` of all groups, positive definite: an error e of the outputs
                counts as e^T M e; default: as e^T e. Not by a form whose last layer does not mix
                all outputs.
        """
        mixes = FORMS[form].layers(self.kernel, rank)[-1].groups == 1
        if minded is None or not mixes:
            return [FORMS[form].fit(p, self.kernel, rank, steps) for p in self.problems]
        out = self.kernel.out_channels
        parts = [minded[i : i + out, i : i + out] for i in range(0, len(minded), out)]
        found = []
        for problem, part in zip(self.problems, parts, strict=True):
            turn = cholesky(part).T.to(problem.target)
            fitted = FORMS[form].fit(problem.turned(turn), self.kernel, rank, steps)
            found.append(fitted.turned(torch.linalg.inv(turn)))
        return found

    def start_errors(self, form: str, ranks: Sequence[Rank]) -> list[list[Tensor]]:
        """By rank, for every group, what a fit without refinement leaves of the outputs."""
        found = [FORMS[form].start_errors(p, self.kernel, ranks) for p in self.problems]
        return [list(lefts) for lefts in zip(*found, strict=True)]

    def thinned(self, step: int, outputs: int | None = None) -> tuple[GroupFits, Tensor]:
        """The fits of every `step`-th input and output channel, or of about so many outputs, evenly
        spread; and which outputs of all they are."""
        groups, (out, in_), area = len(self.problems), self.kernel[:2], self.kernel.area
        kept = torch.arange(0, out, max(groups * out // outputs, 1) if outputs else step)
        channels = torch.arange(0, in_, step)
        inputs = (channels[:, None] * area + torch.arange(area)).flatten()
        problems = [p.of(kept, inputs) for p in self.problems]
        kernel = Kernel(len(kept), len(channels), *self.kernel.size)
        return GroupFits(problems, kernel), (torch.arange(groups)[:, None] * out + kept).flatten()

    def spell(self, form: str, fitted: Sequence[Fitted]) -> Tensor:
        """The dense kernel `[groups, out, D]` that a form's layers amount to."""
        return torch.stack([FORMS[form].spell(mine.weights, self.kernel) for mine in fitted])

    def damage(self, lefts: Sequence[Tensor], curvature: Tensor) -> float:
        """1/2 tr(G E[e e^T]) of the output error e that is left, summed over groups: what it
        costs the output of the network. Not less than rounding can tell.

        Args:
            lefts: for every group, E[e e^T], `[out, out]`.
            curvature: G, `[out, out]` of all groups.
        """
        total, out = 0.0, self.kernel.out_channels
        for group, (left, problem) in enumerate(zip(lefts, self.problems, strict=True)):
            mine = slice(group * out, (group + 1) * out)
            gain = curvature[mine, mine].to(left)
            least = torch.finfo(left.dtype).eps * (gain * problem.outputs).sum().item()
            total += 0.5 * max((gain * left).sum().item(), least)
        return max(total, 1e-30)


def joined(fitted: Sequence[Fitted]) -> list[Tensor]:
    """The weights of a form's layers for all groups at once."""
    return [torch.cat(layer) for layer in zip(*(f.weights for f in fitted), strict=True)]
