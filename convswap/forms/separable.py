"""`separable`: depthwise k*k with multiplier M, then 1*1 (Sifre 2014; Chollet 2017).

    W[o,i,k] = sum_m P[o,i,m] D[i,m,k]

M = 1 is the textbook depthwise separable convolution; M > 1 the decoupled sums of
Network Decoupling (Guo et al. 2018).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .layer import Kernel, Layer, unit
from .least_squares import Fitted, LeastSquares, leading, root

TRIAL_STEPS = 6
GROWS = False
LEAST_LEFT = 0.6
TRIAL_OUTPUTS = None


def applies(kernel: Kernel) -> bool:
    return kernel.area > 1


def full_rank(kernel: Kernel) -> int:
    return min(kernel.area, kernel.out_channels)


def layers(kernel: Kernel, rank: int) -> list[Layer]:
    out, in_ = kernel[:2]
    return [
        Layer("depthwise", in_, in_ * rank, kernel.size, kernel.spans, groups=in_),
        Layer("pointwise", in_ * rank, out),
    ]


def fit(problem: LeastSquares, kernel: Kernel, rank: int, steps: int) -> Fitted:
    steps = 0 if problem.white else steps  # the start is the best there is
    start = _start(problem, kernel, rank)
    (depthwise,), mix, left = problem.refine([start], _basis, steps, apply=_apply)
    return Fitted([depthwise, mix], left)


def start_errors(problem: LeastSquares, kernel: Kernel, ranks: Sequence[int]) -> list[Tensor]:
    in_, most = kernel.in_channels, max(ranks)

    def apply(x: Tensor, depthwise: Tensor) -> Tensor:  # the first filters of all channels first
        return _apply(x, depthwise).unflatten(1, (in_, most)).mT.flatten(1)

    start = _start(problem, kernel, most)
    return problem.leading([start], [rank * in_ for rank in ranks], apply=apply)


def spell(weights: list[Tensor], kernel: Kernel) -> Tensor:
    depthwise = weights[0].reshape(kernel.in_channels, -1, kernel.area)
    return weights[1].flatten(1) @ _basis(depthwise)


def _start(problem: LeastSquares, kernel: Kernel, rank: int) -> Tensor:
    """Channel by channel: the low-rank `[out, K]` slice under that channel's own moments."""
    out, in_, area = kernel.out_channels, kernel.in_channels, kernel.area
    slices = problem.target.reshape(out, in_, area).transpose(0, 1)  # [in, out, K]
    moments = problem.moment.reshape(in_, area, in_, area)
    moments = moments.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # [in, K, K]
    half = root(moments)
    gram = slices.mT @ slices
    principal = leading(half @ gram @ half, rank)  # [in, K, m]
    return unit(principal.mT @ half @ gram)


def _apply(x: Tensor, depthwise: Tensor) -> Tensor:
    in_, _, area = depthwise.shape
    return torch.einsum("nik,imk->nim", x.reshape(-1, in_, area), depthwise).flatten(1)


def _basis(depthwise: Tensor) -> Tensor:
    """Rows (i, m): filter m of channel i, zero on every other channel."""
    in_, multiplier, area = depthwise.shape
    eye = torch.eye(in_, dtype=depthwise.dtype, device=depthwise.device)
    rows = torch.einsum("imk,ij->imjk", depthwise, eye)
    return rows.reshape(in_ * multiplier, in_ * area)
