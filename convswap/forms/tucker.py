"""`tucker`: 1*1 to fewer channels, k*k among those, 1*1 back (Kim et al. 2016, Tucker-2).

W[o,i,k] = sum_{r,s} A[o,r] C[r,s,k] B[s,i]        rank = (r, s)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .layer import Kernel, Layer
from .least_squares import Fitted, LeastSquares, cholesky, leading, root

TRIAL_STEPS = 0


def applies(kernel: Kernel) -> bool:
    return kernel.area > 1


def full_rank(kernel: Kernel) -> tuple[int, int]:
    return min(kernel.out_channels, kernel.patch), kernel.in_channels


def layers(kernel: Kernel, rank: tuple[int, int]) -> list[Layer]:
    out, in_ = kernel[:2]
    rank_out, rank_in = rank
    return [
        Layer("reduce", in_, rank_in),
        Layer("core", rank_in, rank_out, kernel.size, kernel.spans),
        Layer("expand", rank_out, out),
    ]


def fit(problem: LeastSquares, kernel: Kernel, rank: tuple[int, int], steps: int) -> Fitted:
    start = _start(problem, kernel, rank)
    (core, reduce), mix, left = problem.refine(start, _basis, steps, apply=_apply)
    return Fitted([reduce, core, mix], left)


def start_errors(
    problem: LeastSquares, kernel: Kernel, ranks: Sequence[tuple[int, int]]
) -> list[Tensor]:
    """With more input channels the optimum on fewer is contained; its outputs are then
    projected on their principal directions."""
    area, reduce = kernel.area, _reduce(problem, kernel)[: max(s for _, s in ranks)]
    sizes = [rank_in * area for _, rank_in in ranks]

    lefts = problem.leading([reduce], sizes, apply=lambda x, r: _some(x, r, area))
    found = []
    for (rank_out, _), left in zip(ranks, lefts, strict=True):
        kept = problem.outputs - left
        principal = leading(kept, rank_out)
        found.append(problem.outputs - principal @ (principal.T @ kept @ principal) @ principal.T)
    return found


def spell(weights: list[Tensor], kernel: Kernel) -> Tensor:
    reduce, core, expand = weights
    return expand.flatten(1) @ _basis(core.flatten(2), reduce.flatten(1))


def _reduce(problem: LeastSquares, kernel: Kernel) -> Tensor:
    """Directions of the input channels, orthonormal rows `[in, in]`, those that matter most
    first."""
    out, in_, area = kernel.out_channels, kernel.in_channels, kernel.area

    def find() -> Tensor:
        half = root(torch.einsum("ikjk->ij", problem.moment.reshape(in_, area, in_, area)))
        target = problem.target.reshape(out, in_, area)
        gram = torch.einsum("oik,ojk->ij", target, target)
        return torch.linalg.qr(gram @ half @ leading(half @ gram @ half, in_)).Q.T

    return problem.once("inputs", find)


def _start(problem: LeastSquares, kernel: Kernel, rank: tuple[int, int]) -> list[Tensor]:
    """The input channels that matter most, then the closed `channel` fit on those."""
    area, (rank_out, rank_in) = kernel.area, rank
    reduce = _reduce(problem, kernel)[:rank_in]
    some = _some(problem.moment, reduce, area)  # [D, s*K]
    cross, moment = _some(problem.cross, reduce, area), _some(some.T, reduce, area)
    best = torch.cholesky_solve(cross.T, cholesky(moment)).T  # the optimum on the reduced inputs
    core = leading(cross @ best.T, rank_out).T @ best
    return [core.reshape(rank_out, rank_in, area), reduce]


def _some(x: Tensor, reduce: Tensor, area: int) -> Tensor:
    """Patches `[n, in*K]` on fewer input channels, `[n, s*K]`."""
    return torch.einsum("nik,si->nsk", x.unflatten(1, (-1, area)), reduce).flatten(1)


def _apply(x: Tensor, core: Tensor, reduce: Tensor) -> Tensor:
    return _some(x, reduce, core.shape[2]) @ core.flatten(1).T


def _basis(core: Tensor, reduce: Tensor) -> Tensor:
    return torch.einsum("rsk,si->rik", core, reduce).flatten(1)
