"""Copies of networks: to change, to look at, and to run without computing anything."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from ..errors import ModelError
from ..support.randomness import seeded
from .calls import Batch
from .functions import rebind_
from .state import attributes_of
from .thread_state import preserved

Found = TypeVar("Found")

# one that a pass holds where it is suspended would never be free for the next pass
_LOCKS = {type(make()): make for make in (threading.Lock, threading.RLock)}
_WAYS = ("__deepcopy__", "__reduce_ex__", "__reduce__", "__getstate__")  # of Python, to copy


def deep_copy(model: nn.Module, memo: dict[int, object] | None = None) -> nn.Module:
    """A copy of a network, also of one that keeps tensors computed in an earlier pass (timm's
    levit: attention biases), which `copy.deepcopy` refuses if they have a gradient history, and of
    one that has forbidden it.

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
    try:
        return _copied(model, dict(memo))
    except Exception:  # open files, scripted functions: the copy holds the same
        for value in _not_copied(model, memo):
            memo[id(value)] = _LOCKS.get(type(value), lambda same=value: same)()
    try:
        _add_forbidden_(memo, model)
        return _copied(model, memo)
    except Exception as error:
        if "memory" in str(error):
            raise
        raise ModelError(f"{type(model).__name__} cannot be copied: {first_line(error)}") from error


def _copied(model: nn.Module, memo: dict[int, object]) -> nn.Module:
    made = copy.deepcopy(model, memo)
    for path, module in model.named_modules():
        if isinstance(module, GraphModule):
            _restore_(made.get_submodule(path), module, memo)
    rebind_(made, memo)
    return made


def _restore_(made: GraphModule, module: GraphModule, memo: dict[int, object]) -> None:
    """What a copy of a traced network has forgotten: modes, hooks, and what was attached to it."""
    for name, value in vars(module).items():
        if name not in vars(made) or (name.endswith("_hooks") and value):
            vars(made)[name] = copy.deepcopy(value, memo)
    for path, each in made.named_modules():
        each.training = module.get_submodule(path).training


def _not_copied(model: nn.Module, memo: dict[int, object]) -> list[object]:
    """What modules keep beside their tensors that Python cannot copy."""
    found = []
    for module in model.modules():
        for value in attributes_of(module).values():
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:
                found.append(value)
    return found


def _add_forbidden_(memo: dict[int, object], model: nn.Module) -> None:
    """Put in what stands for modules whose own way of being copied fails: an object of the same
    class that keeps the same."""
    forbidden = []
    for module in model.modules():
        ways = [getattr(type(module), way, None) for way in _WAYS]
        if ways != [getattr(nn.Module, way, None) for way in _WAYS]:
            try:
                copy.deepcopy(module, dict(memo))
            except Exception:
                forbidden.append(module)
    for module in forbidden:
        memo[id(module)] = object.__new__(type(module))
    for module in forbidden:
        vars(memo[id(module)]).update(copy.deepcopy(vars(module), memo))


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of the module tree whose tensors have shapes but no storage."""
    memo: dict[int, object] = {}
    for parameter in parameters_of(model):
        empty = torch.empty_like(parameter, device="meta", requires_grad=False)
        memo[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return deep_copy(model, memo)


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy of the module tree with the same parameters and buffers."""
    tensors = [*parameters_of(model), *model.buffers()]
    return deep_copy(model, {id(tensor): tensor for tensor in tensors})


def parameters_of(model: nn.Module) -> Iterator[nn.Parameter]:
    """All parameters, also where `parameters` was overridden to give those that are trained."""
    for module in model.modules():
        yield from (p for p in module._parameters.values() if p is not None)


def in_eval_mode(model: nn.Module) -> nn.Module:
    """The same network, in eval mode. (Many networks forget to return themselves.)"""
    try:
        model.eval()
    except NotImplementedError as error:  # what `torch.export` gives says so
        raise without_modules(model) from error
    return model


def still_training(model: nn.Module) -> list[str]:
    """Paths of the innermost modules that stay in training mode after `eval()`."""
    return [
        path or type(module).__name__
        for path, module in in_eval_mode(model).named_modules()
        if module.training and not any(child.training for child in module.children())
    ]


def keeps_buffers(function: Callable) -> Callable:
    """What runs a network, its first argument, as a function that leaves its buffers as they were:
    some networks count what they see."""

    @wraps(function)
    def kept(model: nn.Module, *args, **kwargs):
        modules = model.modules() if isinstance(model, nn.Module) else ()
        before = [
            (module, name, buffer, buffer.clone())
            for module in modules
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        try:
            return function(model, *args, **kwargs)
        finally:
            with torch.no_grad():
                for module, name, buffer, values in before:
                    module._buffers[name] = buffer
                    if not buffer.is_meta and not torch.equal(buffer, values):
                        buffer.copy_(values)

    return kept


def without_modules(model: object) -> ModelError:
    """What to raise for what only looks like a network."""
    return ModelError(
        f"{type(model).__name__} has no modules that could be replaced",
        do="give the network it was made from",
    )


@dataclass(frozen=True)
class DryRun(Generic[Found]):
    """What was found by running a copy of a network.

    Attributes:
        network, example: the copy, in eval mode, and what it ran on.
        sample: the same with its values.
        found: what whoever looked has returned.
    """

    network: nn.Module
    example: Batch
    sample: Batch
    found: Found

    @property
    def dry(self) -> bool:
        """Whether nothing was computed."""
        return any(tensor.is_meta for tensor in self.example.tensors)


def dry_run(
    model: nn.Module,
    example: Batch,
    look: Callable[[nn.Module, Batch], Found],
    devices: Sequence[str] = ("meta", "cpu"),
) -> DryRun[Found]:
    """Run a copy of a network under the eyes of `look`, which gets it and an example it can run on.

    On the meta device, where running computes nothing, if the network allows it; else (its
    control flow depends on values) for real, on the CPU. Where it cannot run on the example, on
    what there is instead.

    Args:
        devices: to try, in order.

    Raises:
        ModelError: the network cannot run on the example.
    """
    if any(tensor.is_meta for tensor in (*parameters_of(model), *model.buffers())):
        devices = ("meta",)  # it has no values to compute with
    problems = []
    for sample in (example, *([example.instead] if example.instead else [])):
        for device in devices:
            duplicate = meta_copy(model) if device == "meta" else deep_copy(model).to(device)
            in_eval_mode(duplicate).requires_grad_(False)
            try:
                placed = sample.to(device)  # subtle: an array cannot be without values
                with preserved(), torch.no_grad(), seeded(0):
                    return DryRun(duplicate, placed, sample, look(duplicate, placed))
            except Exception as error:
                problems.append(error)
    problem = problems[len(devices) - 1]  # the last with the example
    raise failure(model, example, problem) from problem


def failure(network: nn.Module, batch: Batch, error: Exception) -> ModelError:
    """What to raise where a network cannot run on a batch."""
    sizes = dict.fromkeys("x".join(map(str, t.shape[1:])) for t in batch.tensors)
    name, why = type(network).__name__, first_line(error)
    do = ""
    if "does not require grad" in why:
        do = "compute gradients of forward's own under torch.enable_grad()"
    elif batch.unused:
        do = f"{', '.join(batch.unused)} came with it and was not passed: say how with call="
    return ModelError(f"{name} fails on an input of {' and '.join(sizes)}: {why}", do=do)


def first_line(error: Exception) -> str:
    """What an error of somebody else's code says, in one line: the first, and where that ends with
    a colon, what comes after it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    ends = (index for index, line in enumerate(lines) if not line.endswith(":"))
    return " ".join(lines[: next(ends, 0) + 1]) or type(error).__name__
