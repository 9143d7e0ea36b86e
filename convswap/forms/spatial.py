"""`spatial`: a column of the kernel, then a row (Jaderberg et al. 2014; AIMET's spatial SVD).

W[o,i,x,y] = sum_r V[o,r,y] H[r,i,x]
"""

from __future__ import annotations

import torch
from torch import Tensor

from .layer import Kernel, Layer
from .least_squares import LeastSquares

TRIAL_STEPS = 0


def applies(kernel: Kernel) -> bool:
    return kernel.height > 1 and kernel.width > 1


def full_rank(kernel: Kernel) -> int:
    return min(kernel.in_channels * kernel.height, kernel.out_channels * kernel.width)


def layers(kernel: Kernel, rank: int) -> list[Layer]:
    out, in_, height, width = kernel
    return [
        Layer("vertical", in_, rank, (height, 1), (True, False)),
        Layer("horizontal", rank, out, (1, width), (False, True)),
    ]


def fit(problem: LeastSquares, kernel: Kernel, rank: int, steps: int) -> list[Tensor]:
    def apply(x: Tensor, vertical: Tensor) -> Tensor:
        windows = x.reshape(-1, *kernel[1:])
        return torch.einsum("nixy,rix->nry", windows, vertical).flatten(1)

    (vertical,), mix = problem.refine(
        [_start(problem, kernel, rank)], lambda h: _basis(h, kernel), steps, apply=apply
    )
    return [vertical, mix.reshape(kernel.out_channels, rank, kernel.width)]


def spell(weights: list[Tensor], kernel: Kernel) -> Tensor:
    vertical, horizontal = (w.reshape(*w.shape[:2], -1) for w in weights)
    return torch.einsum("ory,rix->oixy", horizontal, vertical).flatten(1)


def _start(problem: LeastSquares, kernel: Kernel, rank: int) -> Tensor:
    """The low-rank matrix [(o,y), (i,x)], weighted by the moments of one column of inputs."""
    out, in_, height, width = kernel
    folded = problem.target.reshape(out, in_, height, width).permute(0, 3, 1, 2)
    folded = folded.reshape(out * width, in_ * height)

    def gram() -> Tensor:
        patches = problem.moment.reshape(in_, height, width, in_, height, width)
        column = torch.einsum("ixyjzy->ixjz", patches).reshape(in_ * height, in_ * height)
        return folded @ column @ folded.T

    principal = problem.directions("columns", gram)[:, :rank]
    return (principal.T @ folded).reshape(rank, in_, height)


def _basis(vertical: Tensor, kernel: Kernel) -> Tensor:
    """Rows (r, y): column filter r, placed in column y of the window."""
    rank = len(vertical)
    eye = torch.eye(kernel.width, dtype=vertical.dtype, device=vertical.device)
    return torch.einsum("rix,yz->ryixz", vertical, eye).reshape(rank * kernel.width, kernel.patch)
