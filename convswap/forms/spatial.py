"""`spatial`: a column of the kernel, then a row (Jaderberg et al. 2014; AIMET's spatial SVD).

W[o,i,x,y] = sum_r V[o,r,y] H[r,i,x]

Along more axes, the first one that is longer than 1, then all others: k*1*1, then 1*k*k.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .layer import Kernel, Layer
from .least_squares import Fitted, LeastSquares, leading

TRIAL_STEPS = 0


def applies(kernel: Kernel) -> bool:
    height, width = _folded(kernel)
    return height > 1 and width > 1


def full_rank(kernel: Kernel) -> int:
    height, width = _folded(kernel)
    return min(kernel.in_channels * height, kernel.out_channels * width)


def layers(kernel: Kernel, rank: int) -> list[Layer]:
    out, in_ = kernel[:2]
    long = [axis <= _first(kernel) for axis in range(len(kernel.size))]
    down = tuple(taps if mine else 1 for taps, mine in zip(kernel.size, long, strict=True))
    across = tuple(1 if theirs else taps for taps, theirs in zip(kernel.size, long, strict=True))
    return [
        Layer("vertical", in_, rank, down, tuple(long)),
        Layer("horizontal", rank, out, across, tuple(not mine for mine in long)),
    ]


def fit(problem: LeastSquares, kernel: Kernel, rank: int, steps: int) -> Fitted:
    steps = 0 if problem.white else steps  # the start is the best there is
    (vertical,), mix, left = problem.refine(
        [_start(problem, kernel, rank)], lambda h: _basis(h, kernel), steps,
        apply=lambda x, h: _apply(x, h, kernel),
    )  # fmt: skip
    return Fitted([vertical, mix.reshape(kernel.out_channels, rank, _folded(kernel)[1])], left)


def start_errors(problem: LeastSquares, kernel: Kernel, ranks: Sequence[int]) -> list[Tensor]:
    width = _folded(kernel)[1]
    return problem.leading(
        [_start(problem, kernel, max(ranks))], [rank * width for rank in ranks],
        apply=lambda x, h: _apply(x, h, kernel),
    )  # fmt: skip


def spell(weights: list[Tensor], kernel: Kernel) -> Tensor:
    vertical, horizontal = (w.reshape(*w.shape[:2], -1) for w in weights)
    return torch.einsum("ory,rix->oixy", horizontal, vertical).flatten(1)


def _first(kernel: Kernel) -> int:
    """The first axis that is longer than 1."""
    return next((axis for axis, taps in enumerate(kernel.size) if taps > 1), 0)


def _folded(kernel: Kernel) -> tuple[int, int]:
    """Height and width: taps along the first axis longer than 1, and along all others."""
    height = kernel.size[_first(kernel)] if kernel.size else 1
    return height, kernel.area // height


def _start(problem: LeastSquares, kernel: Kernel, rank: int) -> Tensor:
    """The low-rank matrix [(o,y), (i,x)], weighted by the moments of one column of inputs."""
    (out, in_), (height, width) = kernel[:2], _folded(kernel)
    folded = problem.target.reshape(out, in_, height, width).permute(0, 3, 1, 2)
    folded = folded.reshape(out * width, in_ * height)

    def find() -> Tensor:
        patches = problem.moment.reshape(in_, height, width, in_, height, width)
        column = torch.einsum("ixyjzy->ixjz", patches).reshape(in_ * height, in_ * height)
        return leading(folded @ column @ folded.T, len(folded))

    principal = problem.once("columns", find)[:, :rank]
    return (principal.T @ folded).reshape(rank, in_, height)


def _apply(x: Tensor, vertical: Tensor, kernel: Kernel) -> Tensor:
    windows = x.reshape(-1, kernel.in_channels, *_folded(kernel))
    return torch.einsum("nixy,rix->nry", windows, vertical).flatten(1)


def _basis(vertical: Tensor, kernel: Kernel) -> Tensor:
    """Rows (r, y): column filter r, placed in column y of the window."""
    rank, width = len(vertical), _folded(kernel)[1]
    eye = torch.eye(width, dtype=vertical.dtype, device=vertical.device)
    return torch.einsum("rix,yz->ryixz", vertical, eye).reshape(rank * width, kernel.patch)
