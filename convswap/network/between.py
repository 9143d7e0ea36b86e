"""What networks keep from one call to the next, as recurrent ones do: it is left as it was, so that
what they put out follows from the batch alone."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Sequence, Set
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .state import attributes_of
from .trees import paths_in

Output = TypeVar("Output")

_CONTAINERS = (dict, list, deque)


def as_before(network: nn.Module, paths: Sequence[str], run: Callable[[], Output]) -> Output:
    """What `run` returns, after which the modules at some paths of a network keep what they kept
    before."""
    modules = dict(network.named_modules()) if paths else {}
    before = [_Before(modules[path]) for path in paths if path in modules]
    spared: set[int] = set()
    try:
        output = run()
        spared = {id(value) for _, value in paths_in(output)} if before else spared
        return output
    finally:
        for each in before:
            each.restore(spared)


def kept_by(
    network: nn.Module, run: Callable[[], list[Tensor]], other: Callable[[], object]
) -> tuple[str, ...]:
    """Paths of the modules that keep something, which changes what the network puts out next time,
    or makes it fail; it is as before afterwards.

    What a module makes or learns in its first call (layers, buffers, weights) is no such thing.

    Args:
        run, other: run the network on two batches; of the first, the outputs are compared.
    """
    before = {path: _Before(module) for path, module in network.named_modules()}
    first = run()
    changed = {path: each for path, each in before.items() if each.changed}
    try:
        again = run() if changed else first
        other()
        matters = not _same(first, again)
    except Exception:  # of the network's own code
        matters = True
    for each in changed.values():
        each.restore()
    return tuple(changed) if matters else ()


class _Before:
    """What a module keeps at some time, beside parameters, children and hooks."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.own, self.buffers = attributes_of(module), dict(module._buffers)
        self.inside = {n: copy.copy(v) for n, v in self.own.items() if isinstance(v, _CONTAINERS)}
        tensors = [leaf for leaf in tree_leaves([self.own, self.buffers]) if _is_tensor(leaf)]
        self.values = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._made = _made(module)

    @property
    def changed(self) -> bool:
        """Whether the module keeps something else now, and has made or learned nothing."""
        now, buffers = attributes_of(self.module), self.module._buffers
        new = [value for name, value in now.items() if value is not self.own.get(name)]
        filled = [now[n] for n, was in self.inside.items() if n in now and not _same(now[n], was)]
        made = any(isinstance(leaf, nn.Module) for leaf in tree_leaves([new, filled]))
        if made or _made(self.module) != self._made:
            return False
        other = new or filled or now.keys() != self.own.keys()
        other = other or any(buffers[name] is not buffer for name, buffer in self.buffers.items())
        return other or not all(_same(tensor, values) for tensor, values in self.values)

    def restore(self, spared: Set[int] = frozenset()) -> None:
        """Have the module keep what it did then.

        Args:
            spared: ids of containers that are left as they are.
        """
        for name in attributes_of(self.module).keys() - self.own.keys():
            del vars(self.module)[name]
        vars(self.module).update(self.own)
        self.module._buffers.update(self.buffers)
        for name, was in self.inside.items():
            held = self.own[name]
            if id(held) not in spared and not _same(held, was):
                held.clear()
                held.update(was) if isinstance(was, dict) else held.extend(was)
        for tensor, values in self.values:
            if not tensor.is_leaf:
                tensor.detach_()
            if not _same(tensor, values):
                with torch.no_grad():
                    tensor.copy_(values)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter)


def _made(module: nn.Module) -> list[object]:
    """What is another one once a module has made layers or buffers, or learned."""
    weights = [None if p is None else p.sum().item() for p in module._parameters.values()]
    return [*module._parameters, *module._buffers, *module._modules, *weights]


def _same(one: object, other: object) -> bool:
    """Whether two hold the same values, or the same tensors."""
    ours, theirs = tree_leaves(one), tree_leaves(other)
    return len(ours) == len(theirs) and all(
        a is b
        or (isinstance(a, Tensor) and isinstance(b, Tensor) and not a.is_meta and torch.equal(a, b))
        for a, b in zip(ours, theirs, strict=True)
    )
