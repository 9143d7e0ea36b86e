"""Copies of networks: to change, to look at, and to run without computing anything."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

from ..errors import ModelError
from .calls import Batch
from .thread_state import preserved

Found = TypeVar("Found")

_OWN = frozenset(vars(nn.Module()))
LARGEST = 1e18  # of a weight; its square is still a float32


def deep_copy(model: nn.Module, memo: dict[int, object] | None = None) -> nn.Module:
    """A copy of a network, also of one that keeps tensors computed in an earlier pass (timm's
    levit: attention biases), which `copy.deepcopy` refuses if they have a gradient history.

    Args:
        memo: by id, what stands in the copy for some tensors.
    """
    memo = {} if memo is None else memo
    for module in model.modules():
        for value in vars(module).values():  # tables of hooks, most of the time that copying takes
            if type(value) is OrderedDict and not value:
                memo.setdefault(id(value), OrderedDict())
        for value in (module._buffers, attributes_of(module)):
            for leaf in tree_leaves(value):
                if isinstance(leaf, Tensor) and not leaf.is_leaf:
                    memo.setdefault(id(leaf), leaf.detach().clone())
    return copy.deepcopy(model, memo)


def attributes_of(module: nn.Module) -> dict[str, object]:
    """What a module keeps beside its parameters, buffers, children and hooks."""
    return {name: value for name, value in vars(module).items() if name not in _OWN}


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of the module tree whose tensors have shapes but no storage."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta", requires_grad=False)
        memo[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return deep_copy(model, memo)


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy of the module tree with the same parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return deep_copy(model, {id(tensor): tensor for tensor in tensors})


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself: without `DataParallel`, `DistributedDataParallel` or `torch.compile`
    around it (a copy, where `model.compile()` was called).

    Raises:
        ModelError: it is not made of modules any more.
    """
    while isinstance(model, (nn.DataParallel, DistributedDataParallel, OptimizedModule)):
        model = model._orig_mod if isinstance(model, OptimizedModule) else model.module
    if isinstance(model, torch.jit.ScriptModule) or not isinstance(model, nn.Module):
        raise ModelError(
            f"{type(model).__name__} has no modules that could be replaced",
            do="give the network it was made from",
        )
    if any(vars(module).get("_compiled_call_impl") for module in model.modules()):
        model = deep_copy(model)  # which leaves out what is compiled
    return model


@dataclass(frozen=True)
class DryRun(Generic[Found]):
    """What was found by running a copy of a network.

    Attributes:
        network, example: the copy, in eval mode, and what it ran on.
        found: what whoever looked has returned.
    """

    network: nn.Module
    example: Batch
    found: Found

    @property
    def dry(self) -> bool:
        """Whether nothing was computed."""
        return any(tensor.is_meta for tensor in self.example.tensors)


def dry_run(
    model: nn.Module, example: Batch, look: Callable[[nn.Module, Batch], Found]
) -> DryRun[Found]:
    """Run a copy of a network under the eyes of `look`, which gets it and an example it can run on.

    On the meta device, where running computes nothing, if the network allows it; else (its
    control flow depends on values) for real, on the CPU.

    Raises:
        ModelError: the network cannot run on the example.
    """
    for device in ("meta", "cpu"):
        duplicate = meta_copy(model) if device == "meta" else deep_copy(model).to(device)
        duplicate.eval().requires_grad_(False)
        try:
            placed = example.to(device)  # subtle: an array cannot be without values
            with preserved(), torch.no_grad():
                return DryRun(duplicate, placed, look(duplicate, placed))
        except Exception as error:
            problem = error
    sizes = " and ".join("x".join(map(str, i.shape[1:])) for i in example.inputs)
    raise ModelError(
        f"{type(model).__name__} fails on an input of {sizes}: {first_line(problem)}"
    ) from problem


def first_line(error: Exception) -> str:
    """What an error of somebody else's code says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_finite(model: nn.Module) -> None:
    """Raise `ModelError` naming the parameters and buffers that no forward pass can use: NaN,
    infinity, values whose squares are infinite, and negative variances."""
    ranges = {
        name: [end.item() for end in tensor.float().aminmax()]
        for name, tensor in model.state_dict().items()
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel()
    }
    for what, bad in (
        ("NaN or infinite", [n for n, ends in ranges.items() if not all(map(math.isfinite, ends))]),
        ("too large to compute with", [n for n, (low, high) in ranges.items()
                                       if max(-low, high) > LARGEST]),
        ("negative variances", [n for n, (low, _) in ranges.items()
                                if n.endswith("running_var") and low < 0]),
    ):  # fmt: skip
        if bad:
            shown = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
            raise ModelError(f"weights are {what}: {shown}", do="check the weights file")
