"""What takes a layer's place: a few plain ones in a row, which answer like the one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import PlanError
from ..support.loaded import loaded
from .dense import PLAIN, SAME, TRANSPOSED, is_transposed, kernel_of, turned
from .layer import Layer

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_ANSWERS = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
    "padding_mode", "transposed", "output_padding", "in_features", "out_features",
)  # fmt: skip


class Factorized(nn.Sequential):
    """Convolutions, or linear layers, in a row that stand in for one.

    The children are plain layers, which every exporter and quantiser knows. For code that reads
    them it has the attributes of the layer it stands in for (`in_channels`, `kernel_size`,
    `stride`, ...), and `weight` and `bias`, which can be read only.

    Args:
        layers: by name, in order of execution.
        dense: what they stand in for.
    """

    __jit_unused_properties__ = ("weight", "bias")  # torch.jit.script would compile them

    def __init__(self, layers: OrderedDict[str, nn.Module], dense: nn.Module):
        super().__init__(layers)
        for name in _ANSWERS:
            if hasattr(dense, name):
                setattr(self, name, getattr(dense, name))
        self._composed: tuple[list, Tensor] | None = None

    @property
    def weight(self) -> Tensor:
        """The weight that all layers amount to, shaped like that of the layer they stand in for;
        without gradient."""
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

    def _compose(self) -> Tensor:
        # subtle: whoever watches the network's own computation is not to see this; nor are
        # exporters, which would write a `no_grad` of whose result nobody reads anything
        with torch._C.DisableTorchFunction():
            groups = getattr(self, "groups", 1)
            kernels = [_dense_kernel(layer, groups).detach() for layer in self]
            whole = reduce(lambda a, b: torch.einsum("gom...,gmi...->goi...", b, a), kernels)
            kernel, kept_in = whole.flatten(0, 1), self[-1].weight.dtype
            kernel = kernel if kernel.dtype == kept_in else kernel.to(kept_in)
            return turned(kernel, groups) if is_transposed(self) else kernel


class TransposedRow(Factorized):
    """The same for one that is transposed, which may be told what size to write."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """`output_size`: as of `nn.ConvTranspose2d`."""
        if torch.jit.is_scripting():  # the compiler of TorchScript passes over the other branch
            assert output_size is None
        elif output_size is not None:
            return self._sized(x, output_size)
        for layer in self:
            x = layer(x)
        return x

    def _sized(self, x: Tensor, output_size: list[int]) -> Tensor:
        for layer in self:
            if not is_transposed(layer):
                x = layer(x)
                continue
            axes = zip(x.shape[-len(layer.stride) :], layer.kernel_size, layer.stride,
                       output_size[-len(layer.stride) :], strict=True)  # fmt: skip
            x = layer(x, [n if (k, s) == (1, 1) else wanted for n, k, s, wanted in axes])
        return x


def in_a_row(layers: OrderedDict[str, nn.Module], dense: nn.Module) -> Factorized:
    """Layers as one that stands in for `dense`."""
    return (TransposedRow if is_transposed(dense) else Factorized)(layers, dense)


def build(
    layers: Sequence[Layer],
    dense: nn.Module,
    bias: bool,
    pads: tuple[int, ...] | Literal["same"] | None = None,
    dtype: str | None = None,
) -> Factorized:
    """What stands in for `dense`, made of `layers`; weights are zero. (What is left in memory may
    be anything: offsets of deformable convolutions far outside of a map, say.)

    Layers have the dtype, device, memory format and `requires_grad` of `dense`, and timm's
    `Conv2dSame`, which pads by its own rule, in place of `nn.Conv2d` where `dense` is one.
    Only the last layer can carry a bias.

    Args:
        pads: how they pad along all axes, where `dense` does not say: numbers (one for each axis,
            or two, before and after), or `same` for the rule of `Conv2dSame`.
        dtype: in place of that of `dense`.
    """
    kept_in = getattr(torch, dtype) if dtype else dense.weight.dtype
    made, axes = OrderedDict(), dense.weight.dim() - 2
    ends = pairs_of(pads) if isinstance(pads, tuple) and len(pads) > axes else None
    for layer in layers:
        last = bias and layer is layers[-1]
        settings = {"bias": last, "device": dense.weight.device, "dtype": kept_in}
        if isinstance(dense, nn.Linear):
            kind, shape = nn.Linear, (layer.in_channels, layer.out_channels)
        else:
            kind, geometry = _geometry(layer, dense, (0,) * axes if ends else pads)
            size = layer.size or (1,) * axes
            shape = (layer.in_channels, layer.out_channels, size)
            settings |= {"groups": layer.groups, **geometry}
        module = nn.utils.skip_init(kind, *shape, **settings)
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
        if ends and any(layer.spans):
            pad_ends_(module, _along(layer.spans, ends, (0, 0)))
        made[layer.name] = module.requires_grad_(dense.weight.requires_grad)
    row = in_a_row(made, dense).train(dense.training)
    last = _CHANNELS_LAST.get(dense.weight.dim())
    if last and dense.weight.is_contiguous(memory_format=last) and not dense.weight.is_contiguous():
        row = row.to(memory_format=last)
    return row


def check_pads(dense: nn.Module, pads: tuple[int, ...] | Literal["same"] | None) -> None:
    """Raise `PlanError` where a layer cannot be replaced by one that pads like this: by more than
    a kernel reaches, maps would grow without end."""
    axes = (True,) * (dense.weight.dim() - 2)
    if pads is None:
        return
    if pads == "same":
        whole = len(axes) == 2 or (axes and max(_along(axes, dense.stride, 1)) == 1)
        fits = whole and not is_transposed(dense)
    else:
        sizes, steps = dense.weight.shape[2:], _along(axes, getattr(dense, "dilation", 1), 1)
        own = _along(axes, getattr(dense, "padding", 0), 0)
        own = own if isinstance(own, tuple) else (0,) * len(axes)
        two_by_two = len(pads) == 2 * len(axes) and not is_transposed(dense)
        ends = pairs_of(pads) if two_by_two else [(pad, pad) for pad in pads]
        fits = len(ends) == len(axes) and all(
            0 <= min(pair) <= max(pair) <= max(step * (size - 1), most)
            for pair, size, step, most in zip(ends, sizes, steps, own, strict=True)
        )
    if not fits:
        raise PlanError(f"a kernel of shape {list(dense.weight.shape)} does not pad by {pads}")


def pad_ends_(conv: nn.Module, ends: Sequence[tuple[int, int]]) -> nn.Module:
    """Have a convolution pad by zeros, other numbers before and after each axis, as causal ones
    do. PyTorch has the means: it is how all but zeros are padded."""
    conv.padding_mode = "constant"
    conv._reversed_padding_repeated_twice = [pad for pair in reversed(ends) for pad in pair]
    return conv


def pairs_of(pads: Sequence[int]) -> list[tuple[int, int]]:
    """Numbers before and after each axis, two by two."""
    return list(zip(pads[::2], pads[1::2], strict=False))


def become_(dense: nn.Module, row: nn.Module) -> None:
    """Make a layer its replacement, in place.

    The object itself changes, so that whoever holds it (its parent, a plain list, another name)
    holds the replacement.
    """
    # subtle: what is computed, or was put in place on this one object, stands in the way
    for name in ("weight", "bias", "forward", "_conv_forward"):
        dense.__dict__.pop(name, None)
    dense.__class__ = type(row)
    dense.__dict__ |= vars(row)  # subtle: what the user has attached to the layer stays


def write_(module: nn.Sequential, weights: Sequence[Tensor], bias: Tensor | None) -> None:
    """Write the kernels of all layers, in order, and the bias of the last one, in place."""
    with torch.no_grad():
        for layer, weight in zip(module, weights, strict=True):
            write_kernel_(layer, weight)
        if bias is not None:
            module[-1].bias.copy_(bias)


@torch.no_grad()
def write_kernel_(layer: nn.Module, kernel: Tensor) -> None:
    """Write a kernel `[out, in / groups, *size]`, in whatever shape, as a layer's weight."""
    shaped = kernel.reshape(kernel_of(layer).shape)
    layer.weight.copy_(turned(shaped, layer.groups) if is_transposed(layer) else shaped)


def _geometry(
    layer: Layer, dense: nn.Module, pads: tuple[int, ...] | Literal["same"] | None
) -> tuple[type[nn.Module], dict[str, object]]:
    """The class of a layer, and how it moves over its input."""
    spans = layer.spans or (False,) * (dense.weight.dim() - 2)
    same = len(spans) == 2 and (pads == "same" or isinstance(dense, loaded(SAME)))
    geometry: dict[str, object] = {
        "stride": _along(spans, dense.stride, 1),
        "padding": _along(spans, dense.padding if same or pads is None else pads, 0),
        "dilation": _along(spans, dense.dilation, 1),
    }
    if any(spans) and same:
        from timm.layers import Conv2dSame

        return Conv2dSame, geometry
    if any(spans) and is_transposed(dense):
        geometry["output_padding"] = _along(spans, dense.output_padding, 0)
        return TRANSPOSED[len(spans)], geometry
    if any(spans):
        geometry["padding_mode"] = dense.padding_mode
    return PLAIN[dense.weight.dim() - 2], geometry


def _along(spans: tuple[bool, ...], value: Sequence | int | str, neutral: object):
    """The dense setting along the axes a layer spans, the neutral one along the others."""
    if isinstance(value, str):  # "same" and "valid" are neutral by themselves for a size of 1
        return value
    if isinstance(value, int):  # set after the layer was built
        value = (value,) * len(spans)
    return tuple(v if spanned else neutral for v, spanned in zip(value, spans, strict=True))


def _dense_kernel(layer: nn.Module, groups: int) -> Tensor:
    """Kernels `[groups, out, in, *size]`, with zeros where a layer's own groups, more than
    those, do not read a channel."""
    weight = kernel_of(layer)
    weight = weight.float() if weight.dtype.itemsize < 4 else weight
    inner = getattr(layer, "groups", 1) // groups
    weight = weight.unflatten(0, (groups, inner, 1, -1))  # [groups, inner, 1, out, in, *size]
    own = torch.eye(inner, dtype=weight.dtype, device=weight.device)
    own = own.view(inner, inner, *[1] * (weight.dim() - 3))
    return (weight * own).transpose(2, 3).flatten(3, 4).flatten(1, 2)
