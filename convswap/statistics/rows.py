"""What layers read and write, for each position of their kernel, as rows of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..forms import SAME, is_transposed
from ..support.loaded import loaded

GRAM_BLOCK = 512  # columns from which a symmetric product is worth splitting


def patches(
    layer: nn.Module,
    x: Tensor,
    step: Sequence[int],
    offset: Sequence[int],
    written: Sequence[int] | None = None,
) -> Tensor:
    """What a layer reads: `[n, positions, groups, K, in]`.

    Every `step`-th output position is taken along each axis, from `offset` on. Channels come last:
    so they lie in memory where the network runs with channels last, and are copied in long runs.

    Args:
        written: the output's lengths, of a transposed layer that was told them; default: as its
            settings say.
    """
    if isinstance(layer, nn.Linear):
        rows = x.reshape(len(x), -1, x.shape[-1])
        return rows[:, offset[0] :: step[0], None, None]
    stride = layer.stride
    if is_transposed(layer):
        x, stride = _spread(layer, x, written), (1,) * len(stride)
    elif isinstance(layer, loaded(SAME)):
        from timm.layers.padding import pad_same

        x = pad_same(x, layer.kernel_size, layer.stride, layer.dilation)
    elif any(layer._reversed_padding_repeated_twice):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    axes = len(layer.kernel_size)
    x = x.movedim(1, -1).contiguous()
    for axis in range(axes):
        taps, dilation = layer.kernel_size[axis], layer.dilation[axis]
        first = offset[axis] * stride[axis]
        x = x.narrow(1 + axis, first, x.shape[1 + axis] - first)
        x = x.unfold(1 + axis, (taps - 1) * dilation + 1, stride[axis] * step[axis])
        x = x[..., ::dilation]
    x = x.unflatten(1 + axes, (layer.groups, -1))  # [n, *positions, groups, in, *taps]
    return x.movedim(2 + axes, -1).flatten(2 + axes, -2).flatten(1, axes)


def _spread(layer: nn.Module, x: Tensor, written: Sequence[int] | None) -> Tensor:
    """What a transposed layer reads, with zeros put between the positions and around them, so
    that its kernel moves over it one by one."""
    lengths = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], layer.stride, strict=True)]
    spread = x.new_zeros(*x.shape[:2], *lengths)
    spread[(..., *(slice(None, None, s) for s in layer.stride))] = x
    pads = []
    for axis in reversed(range(len(lengths))):
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        start = reach - layer.padding[axis]
        end = start + layer.output_padding[axis]
        pads += [start, end if written is None else written[axis] + reach - start - lengths[axis]]
    return F.pad(spread, pads)


def outputs(layer: nn.Module, y: Tensor, step: Sequence[int], offset: Sequence[int]) -> Tensor:
    """What a layer writes there: `[n, positions, groups, out]`."""
    if isinstance(layer, nn.Linear):
        rows = y.reshape(len(y), -1, y.shape[-1])
        return rows[:, offset[0] :: step[0]].unsqueeze(2)
    for axis, (every, first) in enumerate(zip(step, offset, strict=True)):
        y = y[(slice(None),) * (2 + axis) + (slice(first, None, every),)]
    return y.flatten(2).mT.unflatten(2, (layer.groups, -1))


def lengths(layer: nn.Module, y: Tensor) -> tuple[int, ...]:
    """How many positions of an output there are along each axis; of a linear layer, in all."""
    return (y[0].numel() // y.shape[-1],) if isinstance(layer, nn.Linear) else tuple(y.shape[2:])


def columns(layer: nn.Module, y: Tensor) -> Tensor:
    """All that a layer writes, `[out, samples]`."""
    return y.flatten(0, -2).T if isinstance(layer, nn.Linear) else y.transpose(0, 1).flatten(1)


def add_gram(total: Tensor, rows: Tensor) -> None:
    """Add X^T X to `[..., D, D]`, X being `[..., n, D]`: of two equal halves one is computed."""
    depth = rows.shape[-1]
    if depth < GRAM_BLOCK:
        total += rows.mT @ rows
        return
    half = depth // 2
    left, right = rows[..., :half], rows[..., half:]
    both = left.mT @ right
    total[..., :half, half:] += both
    total[..., half:, :half] += both.mT
    add_gram(total[..., :half, :half], left)
    add_gram(total[..., half:, half:], right)
