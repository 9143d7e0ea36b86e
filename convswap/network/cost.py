"""What a network costs. One convention: a MAC is one multiply-add of a convolution or a
linear layer, counted for one image at the stated input size; bias, normalisation,
activation and attention products are not counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..forms import Layer
from ..plans import Cost
from .copies import dry_copy

_COUNTED = {
    torch.ops.aten.convolution, torch.ops.aten._convolution, torch.ops.aten.mm,
    torch.ops.aten.addmm,
}  # fmt: skip


@dataclass(frozen=True)
class TimedCost(Cost):
    """Cost with its `latency`: milliseconds on a target."""

    latency: float


@dataclass(frozen=True)
class Size:
    """Heights and widths of what one call of a convolution reads and writes."""

    in_height: int
    in_width: int
    out_height: int
    out_width: int


def layers_cost(layers: Sequence[Layer], sizes: Sequence[Size], itemsize: int, bias: bool) -> Cost:
    """Cost of convolutions in a row that stand in for one convolution called at `sizes`.

    An axis shrinks (stride, padding) at the layer that spans it, so a layer's output has
    the dense output's size along the axes spanned so far, and the input's along the others.
    """
    macs = 0
    for size in sizes:
        height, width = size.in_height, size.in_width
        for layer in layers:
            height = size.out_height if layer.spans[0] else height
            width = size.out_width if layer.spans[1] else width
            macs += height * width * layer.weights
    params = sum(layer.weights for layer in layers) + bias * layers[-1].out_channels
    return Cost(macs, params, params * itemsize)


def count(model: nn.Module, input_size: Sequence[int]) -> Cost:
    """Multiply-adds, parameters and bytes of a network for one image of `(channels, height,
    width)`, counted on what it really executes (on the meta device: nothing is computed)."""
    duplicate, image = dry_copy(model, input_size)
    counter = FlopCounterMode(display=False)
    with counter:
        duplicate(image)
    flops = counter.get_flop_counts().get("Global", {})
    macs = sum(value for operator, value in flops.items() if operator in _COUNTED) // 2
    tensors = [*model.parameters(), *model.buffers()]
    return Cost(
        macs,
        sum(parameter.numel() for parameter in model.parameters()),
        sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    )
