"""Kernels and layers as plain data, and the one function that turns layers into modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


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


def build(layers: Sequence[Layer], conv: nn.Conv2d, bias: bool) -> nn.Sequential:
    """Named convolutions for `layers` that replace `conv`; weights are left uninitialised.

    The layers take the class of `conv` (timm's `Conv2dSame` pads by its own rule), its
    dtype and device. Only the last one can carry a bias.
    """
    made = OrderedDict()
    for layer in layers:
        spatial = any(layer.spans)
        geometry = {
            "stride": _along(layer.spans, conv.stride, 1),
            "padding": _along(layer.spans, conv.padding, 0),
            "dilation": _along(layer.spans, conv.dilation, 1),
        }
        if spatial and type(conv) is nn.Conv2d:  # subclasses pad with zeros, by their own rule
            geometry["padding_mode"] = conv.padding_mode
        made[layer.name] = nn.utils.skip_init(
            type(conv) if spatial else nn.Conv2d,
            layer.in_channels,
            layer.out_channels,
            layer.size,
            groups=layer.groups,
            bias=bias and layer is layers[-1],
            device=conv.weight.device,
            dtype=conv.weight.dtype,
            **geometry,
        )
    return nn.Sequential(made).train(conv.training)


def _along(spans: tuple[bool, bool], value: tuple[int, int] | str, neutral: int):
    """The dense setting along the axes a layer spans, the neutral one along the others."""
    if isinstance(value, str):  # "same" and "valid" are neutral by themselves for a size of 1
        return value
    return tuple(v if spanned else neutral for v, spanned in zip(value, spans, strict=True))


def write_(module: nn.Sequential, weights: Sequence[Tensor], bias: Tensor | None) -> None:
    """Write the kernels of all layers, in order, and the bias of the last one, in place."""
    for conv, weight in zip(module, weights, strict=True):
        conv.weight.data.copy_(weight.reshape(conv.weight.shape))
    if bias is not None:
        module[-1].bias.data.copy_(bias)


def unit(rows: Tensor) -> Tensor:
    """Rows `[..., n]` scaled to norm one; rows of zeros stay."""
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
