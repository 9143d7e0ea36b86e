"""What a network costs. One convention: a MAC is one multiply-add of a convolution or a
linear layer, counted for one image at the stated input size; bias, normalisation,
activation and attention products are not counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ..forms import Layer
from ..plans import Cost
from .calls import Batch, example_of
from .copies import dry_run
from .wrappers import unwrapped

_COUNTED = {
    torch.ops.aten.convolution, torch.ops.aten._convolution, torch.ops.aten.mm,
    torch.ops.aten.addmm, torch.ops.aten.mkldnn_rnn_layer,
}  # fmt: skip


@dataclass(frozen=True)
class TimedCost(Cost):
    """Cost with its `latency`: milliseconds on a target."""

    latency: float


@dataclass(frozen=True)
class Size:
    """What one call of a layer reads and writes, in pixels along each axis.

    Attributes:
        read, written: lengths along the axes of the kernel; of a linear layer, none.
        images: in one call for one sample; more than one where a network folds frames, windows
            or crops into the batch. Of a linear layer, vectors.
    """

    read: tuple[int, ...]
    written: tuple[int, ...]
    images: int = 1


def layers_cost(
    layers: Sequence[Layer],
    sizes: Sequence[Size],
    itemsize: int,
    bias: bool,
    transposed: bool = False,
) -> Cost:
    """Cost of layers in a row that stand in for one called at `sizes`.

    An axis shrinks (stride, padding) at the layer that spans it, so a layer's output has
    the dense output's size along the axes spanned so far, and the input's along the others.
    A transposed layer multiplies at every position that it reads, any other at those it writes.
    """
    macs = 0
    for size in sizes:
        lengths = list(size.read)
        for layer in layers:
            before = math.prod(lengths)
            for axis, spanned in enumerate(layer.spans):
                lengths[axis] = size.written[axis] if spanned else lengths[axis]
            spots = before if transposed else math.prod(lengths)
            macs += size.images * spots * layer.weights
    params = sum(layer.weights for layer in layers) + bias * layers[-1].out_channels
    return Cost(macs, params, params * itemsize)


def count(model: nn.Module, input_size: Sequence[int] | object) -> Cost:
    """Multiply-adds, parameters and bytes of a network for one sample, counted on what it really
    executes (on the meta device, where it can run there: nothing is computed).

    Args:
        input_size: `(channels, height, width)` of an image, or a batch of whatever the network
            takes, of which the first sample is used.
    """
    model = unwrapped(model)
    return weigh(model, dry_run(model, example_of(model, input_size), counted).found)


def counted(network: nn.Module, example: Batch) -> int:
    """The multiply-adds that a network executes on an example."""
    with Counter() as counter:
        example.run(network)
    return counter.macs


def weigh(model: nn.Module, macs: int) -> Cost:
    """The cost of a network that executes so many multiply-adds."""
    tensors = [*model.parameters(), *model.buffers()]
    return Cost(
        macs,
        sum(parameter.numel() for parameter in model.parameters()),
        sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    )


class Counter(FlopCounterMode):
    """Counts the multiply-adds of what runs inside.

    Attributes:
        spared: multiply-adds of what need not run, for it is known what it gives.
    """

    def __init__(self):
        super().__init__(
            display=False, custom_mapping={torch.ops.aten.mkldnn_rnn_layer: _lstm_flops}
        )
        self.spared = 0
        self.mod_tracker = _NoModules()
        self._in_order = _InOrder()

    def __enter__(self) -> Counter:
        self._in_order.__enter__()
        return super().__enter__()

    def __exit__(self, *failure: object) -> None:
        super().__exit__(*failure)
        self._in_order.__exit__(*failure)

    def _count_flops(self, func_packet, out, args, kwargs):
        if _in_backward_pass():  # of gradients that a network computes itself
            return out
        return super()._count_flops(func_packet, out, args, kwargs)

    @property
    def macs(self) -> int:
        """Of convolutions and linear layers."""
        flops = self.get_flop_counts().get("Global", {})
        run = sum(value for operator, value in flops.items() if operator in _COUNTED) // 2
        return run + self.spared


def _lstm_flops(x: torch.Size, weight: torch.Size, recurrent: torch.Size, *_, **__) -> int:
    """Of a layer of an LSTM along one direction, as a processor runs it."""
    return 2 * x[0] * x[1] * (weight.numel() + recurrent.numel())


def _in_backward_pass() -> bool:
    return torch._C._current_graph_task_id() != -1


class _NoModules(nullcontext):
    """In place of what tells PyTorch in which modules it counts, and fails where a network computes
    gradients itself."""

    parents = frozenset({"Global"})


class _InOrder(TorchFunctionMode):
    """Linear layers read their input laid out in order: of any other PyTorch makes batched
    products, which are not told from those of attention (timm's twins)."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.linear and args:
            args = (args[0].contiguous(), *args[1:])
        return func(*args, **(kwargs or {}))
