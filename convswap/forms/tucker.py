"""`tucker`: 1*1 to fewer channels, k*k among those, 1*1 back (Kim et al. 2016, Tucker-2).

W[o,i,k] = sum_{r,s} A[o,r] C[r,s,k] B[s,i]        rank = (r, s)
"""

from __future__ import annotations

import torch
from torch import Tensor

from .layer import Kernel, Layer
from .least_squares import LeastSquares, cholesky, leading, root

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


def fit(problem: LeastSquares, kernel: Kernel, rank: tuple[int, int], steps: int) -> list[Tensor]:
    start = _start(problem, kernel, rank)
    (core, reduce), mix = problem.refine(start, _basis, steps, apply=_apply)
    return [reduce, core, mix]


def spell(weights: list[Tensor], kernel: Kernel) -> Tensor:
    reduce, core, expand = weights
    return expand.flatten(1) @ _basis(core.flatten(2), reduce.flatten(1))


def _start(problem: LeastSquares, kernel: Kernel, rank: tuple[int, int]) -> list[Tensor]:
    """The input channels that matter most, then the closed `channel` fit on those."""
    out, in_, area = kernel.out_channels, kernel.in_channels, kernel.area
    rank_out, rank_in = rank
    patches = problem.moment.reshape(in_, area, in_, area)
    half = root(torch.einsum("ikjk->ij", patches))
    target = problem.target.reshape(out, in_, area)
    gram = torch.einsum("oik,ojk->ij", target, target)
    reduce = leading(half @ gram @ half, rank_in).T @ half @ gram  # [s, in]
    reduce = torch.linalg.qr(reduce.T).Q.T if rank_in < in_ else torch.eye(in_).to(reduce)
    cross = torch.einsum("oik,si->osk", problem.cross.reshape(out, in_, area), reduce).flatten(1)
    moment = torch.einsum("ikjl,si,tj->sktl", patches, reduce, reduce)
    factor = cholesky(moment.reshape(rank_in * area, rank_in * area))
    best = torch.cholesky_solve(cross.T, factor).T  # the optimum on the reduced inputs
    core = leading(cross @ best.T, rank_out).T @ best
    return [core.reshape(rank_out, rank_in, area), reduce]


def _apply(x: Tensor, core: Tensor, reduce: Tensor) -> Tensor:
    windows = x.reshape(-1, reduce.shape[1], core.shape[2])
    return torch.einsum("nsk,rsk->nr", torch.einsum("nik,si->nsk", windows, reduce), core)


def _basis(core: Tensor, reduce: Tensor) -> Tensor:
    return torch.einsum("rsk,si->rik", core, reduce).flatten(1)
