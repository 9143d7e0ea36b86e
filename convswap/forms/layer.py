"""Kernels and layers as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


class Kernel(tuple):
    """Shape of a dense kernel `[out_channels, in_channels, *size]`: of a convolution along any
    number of axes, or of a linear layer, which has no size. Of a grouped one, that of a group."""

    __slots__ = ()

    def __new__(cls, *shape: int) -> Kernel:
        return super().__new__(cls, shape)

    def __getnewargs__(self) -> tuple[int, ...]:
        return tuple(self)

    @property
    def out_channels(self) -> int:
        return self[0]

    @property
    def in_channels(self) -> int:
        return self[1]

    @property
    def size(self) -> tuple[int, ...]:
        """Taps along each axis."""
        return self[2:]

    @property
    def spans(self) -> tuple[bool, ...]:
        """Those of a layer that stands in for the convolution along every axis."""
        return (True,) * len(self.size)

    @property
    def area(self) -> int:
        """Taps per channel, K: the product of its sizes."""
        return math.prod(self.size)

    @property
    def patch(self) -> int:
        """Length D = in_channels * K of one input patch, in the order of `weight.flatten(1)`."""
        return self.in_channels * self.area


@dataclass(frozen=True)
class Layer:
    """One convolution (or linear layer) of a form.

    `spans` says along which axes this layer stands in for the dense convolution: there it takes
    the dense stride, padding and dilation; along the others it is 1 wide and neutral, and so
    along all where it has no `size` and `spans`.
    """

    name: str
    in_channels: int
    out_channels: int
    size: tuple[int, ...] = ()
    spans: tuple[bool, ...] = ()
    groups: int = 1

    @property
    def weights(self) -> int:
        """Number of weights, bias not counted."""
        return self.out_channels * self.in_channels // self.groups * math.prod(self.size)

    def repeated(self, groups: int) -> Layer:
        """The layer that does this in every group of channels by itself."""
        return replace(
            self, in_channels=groups * self.in_channels, out_channels=groups * self.out_channels,
            groups=groups * self.groups,
        )  # fmt: skip


def in_groups(layers: Sequence[Layer], groups: int) -> list[Layer]:
    """The layers of a group's kernel, for all groups at once."""
    return [layer.repeated(groups) for layer in layers]


def unit(rows: Tensor) -> Tensor:
    """Rows `[..., n]` scaled to norm one; rows of zeros stay."""
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
