"""`channel`: k*k to fewer channels, then 1*1 (Zhang et al. 2015).

The kernel is a low-rank matrix `[out, in*K]`, so the fit is closed: project the optimal
outputs on their leading principal directions. The only form that helps a 1*1 kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .layer import Kernel, Layer
from .least_squares import Fitted, LeastSquares

TRIAL_STEPS = 0


def applies(kernel: Kernel) -> bool:
    return True


def full_rank(kernel: Kernel) -> int:
    return min(kernel.out_channels, kernel.patch)


def layers(kernel: Kernel, rank: int) -> list[Layer]:
    out, in_ = kernel[:2]
    return [
        Layer("reduce", in_, rank, kernel.size, kernel.spans),
        Layer("expand", rank, out),
    ]


def fit(problem: LeastSquares, kernel: Kernel, rank: int, steps: int) -> Fitted:
    principal = problem.principal[:, :rank]  # [out, r], orthonormal
    [left] = start_errors(problem, kernel, [rank])
    return Fitted([principal.T @ problem.target, principal], left)


def start_errors(problem: LeastSquares, kernel: Kernel, ranks: Sequence[int]) -> list[Tensor]:
    """From the largest rank down, each leaves the directions that the last one has kept as well."""
    principal = problem.principal
    power = (principal * (problem.outputs @ principal)).sum(0)
    left, kept, found = torch.zeros_like(problem.outputs), len(power), {}
    for rank in sorted(ranks, reverse=True):
        lost = slice(rank, kept)
        left = left + (principal[:, lost] * power[lost]) @ principal[:, lost].T
        found[rank], kept = left, rank
    return [found[rank] for rank in ranks]


def spell(weights: list[Tensor], kernel: Kernel) -> Tensor:
    reduce, expand = (w.flatten(1) for w in weights)
    return expand @ reduce
