"""`blueprint`: 1*1, then depthwise k*k (Haase & Amthor 2020, BSConv-U).

    W[o,i,k] = B[o,i] S[o,k]

One spatial pattern per output channel; it has no rank and no setting that is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .layer import Kernel, Layer, unit
from .least_squares import LEAST_GAIN, Fitted, LeastSquares

TRIAL_STEPS = 10
GROWS = False
LEAST_LEFT = 0.6
TRIAL_OUTPUTS = 64
CHUNK = 64  # output channels solved at once: [chunk, in, in] systems


def applies(kernel: Kernel) -> bool:
    return kernel.area > 1


def full_rank(kernel: Kernel) -> None:
    return None


def layers(kernel: Kernel, rank: int) -> list[Layer]:
    out, in_ = kernel[:2]
    return [
        Layer("pointwise", in_, out),
        Layer("depthwise", out, out, kernel.size, kernel.spans, groups=out),
    ]


def fit(problem: LeastSquares, kernel: Kernel, rank: int, steps: int) -> Fitted:
    """Alternating least squares, each output channel a rank-one problem of its own.

    Starts from the rank-one SVD of each slice and makes one round for every ten `steps`, as long
    as rounds gain something.
    """
    steps = 0 if problem.white else steps  # the start is the best there is
    out, in_, area = kernel.out_channels, kernel.in_channels, kernel.area
    moment = problem.moment.reshape(in_, area, in_, area)
    pointwise, depthwise = [], []
    for target, cross in zip(
        problem.target.reshape(out, in_, area).split(CHUNK),
        problem.cross.reshape(out, in_, area).split(CHUNK),
        strict=True,
    ):
        left, strength, right = torch.linalg.svd(target, full_matrices=False)
        channels, taps = left[..., 0] * strength[..., :1], right[..., 0, :]
        energy, last = (target.flatten(1) * cross.flatten(1)).sum(), math.inf
        for _ in range(-(-steps // 10)):
            taps = unit(taps)
            gram = torch.einsum("ok,ol,ikjl->oij", taps, taps, moment)
            channels = _solve(gram, torch.einsum("ok,oik->oi", taps, cross))
            half = torch.einsum("oi,ikjl->okjl", channels, moment)
            gram = torch.einsum("oj,okjl->okl", channels, half)
            wanted = torch.einsum("oi,oik->ok", channels, cross)
            taps = _solve(gram, wanted)
            error = (energy - (taps * wanted).sum()).item()
            if error > (1 - LEAST_GAIN) * last:
                break
            last = error
        pointwise.append(channels)
        depthwise.append(taps)
    weights = [torch.cat(pointwise), torch.cat(depthwise)]
    return Fitted(weights, problem.left(spell(weights, kernel)))


def start_errors(problem: LeastSquares, kernel: Kernel, ranks: Sequence[int]) -> list[Tensor]:
    return [fit(problem, kernel, rank, 0).left for rank in ranks]


def spell(weights: list[Tensor], kernel: Kernel) -> Tensor:
    pointwise, depthwise = (w.flatten(1) for w in weights)
    return torch.einsum("oi,ok->oik", pointwise, depthwise).flatten(1)


def _solve(gram: Tensor, right: Tensor) -> Tensor:
    ridge = 1e-9 * gram.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-30)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram + ridge[:, None, None] * eye, right)
