"""Sums that convolutions feed: what a residual block adds to their output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .lockstep import Tap

LEAST_SCALE = 0.1  # of the root mean square: batch norm hides what smaller channels write


@dataclass(frozen=True)
class Sum:
    """A sum of what a convolution writes and something computed before the convolution runs.

    Attributes:
        other: where to get the other addend.
        norms: paths of the batch norms between the convolution and the sum.
    """

    other: Tap
    norms: tuple[str, ...]


def undo_norms(model: nn.Module, norms: Sequence[str], like: Tensor) -> Tensor:
    """By what to multiply a change after batch norms to make it before them, for each channel.

    Channels that the norms all but silence are held back.

    Args:
        like: what is changed, `[n, channels, *size]`; of any shape if there are no norms.
    """
    if not norms:
        return like.new_tensor(1 / (1 + LEAST_SCALE**2))
    scale = like.new_ones(like.shape[1])
    for path in norms:
        norm = model.get_submodule(path)
        scale = scale / (norm.running_var + norm.eps).sqrt()
        scale = scale if norm.weight is None else scale * norm.weight.detach()
    square = scale.square()
    least = (LEAST_SCALE**2 * square.mean()).clamp_min(torch.finfo(scale.dtype).tiny)
    return (scale / (square + least)).view(-1, *[1] * (like.dim() - 2))
