"""`bottleneck`: 1*1, depthwise k*k, 1*1 (CP with one spatial factor; a MobileNetV2 block
without its non-linearities).

    W[o,i,k] = sum_r A[o,r] S[r,k] B[r,i]

The form that keeps most accuracy per multiply-add. Its terms like to cancel (their squared
norms then exceed the kernel's many times over, and the factors break under training or low
precision), so the fit penalises their norms (Phan et al. 2020), more where that is not enough:
their sum stays below 2.75 times the kernel's. (Measured on a ResNet-20 at 0.2 and 0.3 of its
multiply-adds, that bound adds 3 % to the KL divergence from the original.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .layer import Kernel, Layer, unit
from .least_squares import Fitted, LeastSquares

TRIAL_STEPS = 20
GROWS = True
LEAST_LEFT = 0.1
TRIAL_OUTPUTS = None
RIDGE = 3e-3  # as a fraction of the mean input power; 1e-4 lets norms grow to 10-16 times
MOST_NORM = 2.75  # squared norms of all terms, over the kernel's; beyond it the ridge grows


def applies(kernel: Kernel) -> bool:
    return kernel.area > 1


def full_rank(kernel: Kernel) -> int:
    return min(kernel.patch, kernel.out_channels * min(kernel.in_channels, kernel.area))


def layers(kernel: Kernel, rank: int) -> list[Layer]:
    out, in_ = kernel[:2]
    return [
        Layer("reduce", in_, rank),
        Layer("depthwise", rank, rank, kernel.size, kernel.spans, groups=rank),
        Layer("expand", rank, out),
    ]


def fit(problem: LeastSquares, kernel: Kernel, rank: int, steps: int) -> Fitted:
    factors = _start(problem, kernel, rank)
    if rank >= full_rank(kernel):  # a penalty would spoil what is exact
        factors, mix, left = problem.refine(factors, _basis, 0)
    else:
        ridge, most = RIDGE, MOST_NORM * problem.norm
        factors, mix, left = problem.refine(factors, _basis, steps, ridge=ridge)
        while steps and mix.square().sum() > most and ridge < 1:
            ridge = 2 * ridge
            factors, mix, left = problem.refine(factors, _basis, steps, ridge=ridge)
    depthwise, reduce = factors
    return Fitted(_balance(unit(reduce), unit(depthwise), mix), left)


def start_errors(problem: LeastSquares, kernel: Kernel, ranks: Sequence[int]) -> list[Tensor]:
    start = _start(problem, kernel, max(ranks))
    return problem.leading(start, ranks, basis=_basis, ridge=RIDGE)


def spell(weights: list[Tensor], kernel: Kernel) -> Tensor:
    reduce, depthwise, expand = (w.flatten(1) for w in weights)
    return expand @ torch.einsum("ri,rk->rik", reduce, depthwise).flatten(1)


def _start(problem: LeastSquares, kernel: Kernel, rank: int) -> list[Tensor]:
    """The largest rank-one pieces of the principal patch filters."""
    in_, area = kernel.in_channels, kernel.area
    if rank >= kernel.patch:  # every tap of every channel on its own
        taps = torch.eye(area).repeat(in_, 1), torch.eye(in_).repeat_interleave(area, 0)
        return [tap.to(problem.cross) for tap in taps]
    components = min(kernel.out_channels, kernel.patch)
    filters = (problem.principal[:, :components].T @ problem.target).reshape(components, in_, area)
    channels, strength, taps = torch.linalg.svd(filters, full_matrices=False)
    chosen = strength.flatten().topk(rank).indices
    filter_, piece = chosen // strength.shape[1], chosen % strength.shape[1]
    return [taps[filter_, piece], channels[filter_, :, piece]]


def _basis(depthwise: Tensor, reduce: Tensor) -> Tensor:
    """Rows of unit norm, so that the norm of the mix is the norm of the terms."""
    return torch.einsum("ri,rk->rik", unit(reduce), unit(depthwise)).flatten(1)


def _balance(*factors: Tensor) -> list[Tensor]:
    """Share each term's norm evenly among its three factors; `[r,i]`, `[r,k]`, `[o,r]`."""
    reduce, depthwise, mix = factors
    norm = mix.norm(dim=0)
    third = norm.pow(1 / 3)
    return [
        reduce * third[:, None],
        depthwise * third[:, None],
        mix * (third / norm.clamp_min(torch.finfo(norm.dtype).tiny)),
    ]
