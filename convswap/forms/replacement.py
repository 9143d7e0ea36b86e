"""What takes a convolution's place: a few plain ones in a row, which answer like the one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import reduce

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from .layer import Layer


class FactorizedConv2d(nn.Sequential):
    """Convolutions in a row that stand in for one.

    The children are plain `nn.Conv2d`, which every exporter and quantiser knows. For code that
    reads them it has the attributes of a convolution: `in_channels`, `out_channels`,
    `kernel_size`, `stride`, `padding`, `dilation`, `groups`, `padding_mode`, and
    `weight` and `bias`, which can be read only.

    Args:
        layers: by name, in order of execution.
        conv: what they stand in for.
    """

    def __init__(self, layers: OrderedDict[str, nn.Conv2d], conv: nn.Conv2d):
        super().__init__(layers)
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride = conv.kernel_size, conv.stride
        self.padding, self.padding_mode = conv.padding, conv.padding_mode
        self.dilation, self.groups = conv.dilation, conv.groups
        self._composed: tuple[list, Tensor] | None = None

    @property
    def weight(self) -> Tensor:
        """The kernel that all layers amount to, `[out, in, kh, kw]`; a copy without gradient."""
        layers = [layer.weight for layer in self]
        if torch.compiler.is_compiling() or any(weight.is_inference() for weight in layers):
            return self._compose()
        state = [(id(weight), weight._version) for weight in layers]
        if self._composed is None or self._composed[0] != state:
            self._composed = state, self._compose()
        return self._composed[1]

    @property
    def bias(self) -> Tensor | None:
        """Of the last layer, `[out]`."""
        return self[-1].bias

    def __getitem__(self, index: int | slice) -> nn.Module:
        """A layer, or a row of some of them: that no longer stands in for anything."""
        if isinstance(index, slice):
            return nn.Sequential(OrderedDict(list(self._modules.items())[index]))
        return super().__getitem__(index)

    @torch.no_grad()
    def _compose(self) -> Tensor:
        # subtle: whoever watches the network's own computation is not to see this
        with torch._C.DisableTorchFunction():
            kernels = [_dense_kernel(layer) for layer in self]
            whole = reduce(lambda a, b: torch.einsum("om...,mi...->oi...", b, a), kernels)
            return whole.to(self[-1].weight.dtype)


def build(layers: Sequence[Layer], conv: nn.Conv2d, bias: bool) -> FactorizedConv2d:
    """What stands in for `conv`, made of `layers`; weights are left uninitialised.

    Layers have the dtype, device, memory format and `requires_grad` of `conv`, and timm's
    `Conv2dSame`, which pads by its own rule, in place of `nn.Conv2d` where `conv` is one.
    Only the last layer can carry a bias.
    """
    made = OrderedDict()
    for layer in layers:
        spatial = any(layer.spans)
        geometry = {
            "stride": _along(layer.spans, conv.stride, 1),
            "padding": _along(layer.spans, conv.padding, 0),
            "dilation": _along(layer.spans, conv.dilation, 1),
        }
        same = spatial and isinstance(conv, Conv2dSame)
        if spatial and not same:
            geometry["padding_mode"] = conv.padding_mode
        made[layer.name] = nn.utils.skip_init(
            Conv2dSame if same else nn.Conv2d,
            layer.in_channels,
            layer.out_channels,
            layer.size,
            groups=layer.groups,
            bias=bias and layer is layers[-1],
            device=conv.weight.device,
            dtype=conv.weight.dtype,
            **geometry,
        ).requires_grad_(conv.weight.requires_grad)
    row = FactorizedConv2d(made, conv).train(conv.training)
    last = torch.channels_last
    if conv.weight.is_contiguous(memory_format=last) and not conv.weight.is_contiguous():
        row = row.to(memory_format=last)
    return row


def become_(conv: nn.Conv2d, row: FactorizedConv2d) -> None:
    """Make a convolution its replacement, in place.

    The object itself changes, so that whoever holds it (its parent, a plain list, another name)
    holds the replacement.
    """
    conv.__class__ = type(row)
    conv.__dict__ |= vars(row)  # subtle: what the user has attached to the convolution stays


def write_(module: nn.Sequential, weights: Sequence[Tensor], bias: Tensor | None) -> None:
    """Write the kernels of all layers, in order, and the bias of the last one, in place."""
    with torch.no_grad():
        for conv, weight in zip(module, weights, strict=True):
            conv.weight.copy_(weight.reshape(conv.weight.shape))
        if bias is not None:
            module[-1].bias.copy_(bias)


def _along(spans: tuple[bool, bool], value: tuple[int, int] | str, neutral: int):
    """The dense setting along the axes a layer spans, the neutral one along the others."""
    if isinstance(value, str):  # "same" and "valid" are neutral by themselves for a size of 1
        return value
    return tuple(v if spanned else neutral for v, spanned in zip(value, spans, strict=True))


def _dense_kernel(conv: nn.Conv2d) -> Tensor:
    """A kernel `[out, in, kh, kw]`, with zeros where groups do not read a channel."""
    weight = conv.weight if conv.weight.dtype == torch.float64 else conv.weight.float()
    if conv.groups == 1:
        return weight
    blocks = weight.unflatten(0, (conv.groups, -1))  # [groups, out / groups, in / groups, ...]
    dense = weight.new_zeros(conv.groups, *blocks.shape[1:2], conv.groups, *blocks.shape[2:])
    each = torch.arange(conv.groups)
    dense[each, :, each] = blocks
    return dense.flatten(0, 1).flatten(1, 2)
