"""`channel`: k*k to fewer channels, then 1*1 (Zhang et al. 2015).

The kernel is a low-rank matrix `[out, in*K]`, so the fit is closed: project the optimal
outputs on their leading principal directions. The only form that helps a 1*1 kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    return Fitted([principal.T @ problem.target, principal], _left(problem, rank))


def start_errors(problem: LeastSquares, kernel: Kernel, ranks: Sequence[int]) -> list[Tensor]:
    return [_left(problem, rank) for rank in ranks]


def spell(weights: list[Tensor], kernel: Kernel) -> Tensor:
    reduce, expand = (w.flatten(1) for w in weights)
    return expand @ reduce


def _left(problem: LeastSquares, rank: int) -> Tensor:
    """What is lost along the other directions, `[out, out]`."""
    others = problem.principal[:, rank:]
    return others @ (others.T @ problem.outputs @ others) @ others.T
