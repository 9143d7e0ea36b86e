"""Copies of networks whose own code may refer to them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import FunctionType

from torch import nn
from torch.utils._pytree import tree_leaves

from ..network.copies import deep_copy


def whole_copy(model: nn.Module) -> nn.Module:
    """A copy of a network; the network itself, where a copy would go on using its layers: a
    function, such as `self.act = lambda x: relu(self.norm(x))`, is not copied with what it holds.
    """
    copied = deep_copy(model)
    own = {id(each) for each in (*model.modules(), *model.parameters(), *model.buffers())}
    kept = [vars(module) for module in copied.modules()]  # hooks as well
    return model if any(id(held) in own for held in _held(kept, set())) else copied


def _held(value: object, seen: set[int]) -> Iterator[object]:
    """What functions among some values hold, and functions in that."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, partial):
            leaf = leaf.func
        if not isinstance(leaf, FunctionType) or id(leaf) in seen:
            continue
        seen.add(id(leaf))
        for cell in leaf.__closure__ or ():
            try:
                inside = cell.cell_contents
            except ValueError:  # nothing in it yet
                continue
            yield inside
            yield from _held(inside, seen)
