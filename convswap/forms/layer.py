"""Kernels and layers as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Kernel(NamedTuple):
    """Shape of a dense convolution kernel `[out_channels, in_channels, height, width]`."""

    out_channels: int
    in_channels: int
    height: int
    width: int

    @property
    def area(self) -> int:
        """Taps per channel, K = height * width."""
        return self.height * self.width

    @property
    def patch(self) -> int:
        """Length D = in_channels * K of one input patch, in the order of `weight.flatten(1)`."""
        return self.in_channels * self.area


@dataclass(frozen=True)
class Layer:
    """One convolution of a form.

    `spans` says along which axes (height, width) this layer stands in for the dense
    convolution: there it takes the dense stride, padding and dilation; along the other
    axis it is 1 wide and neutral.
    """

    name: str
    in_channels: int
    out_channels: int
    size: tuple[int, int] = (1, 1)
    spans: tuple[bool, bool] = (False, False)
    groups: int = 1

    @property
    def weights(self) -> int:
        """Number of weights, bias not counted."""
        return self.out_channels * self.in_channels // self.groups * self.size[0] * self.size[1]


def unit(rows: Tensor) -> Tensor:
    """Rows `[..., n]` scaled to norm one; rows of zeros stay."""
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
