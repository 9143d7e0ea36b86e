"""Functions, methods and weak references that hold layers, in copies of networks: Python copies
them as themselves, so that `self.act = lambda x: relu(self.norm(x))` would go on using the layer it
was written for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from types import CellType, FunctionType, MethodType
from weakref import ReferenceType, ref

from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from .state import OWN

_TENSORS = ("_parameters", "_buffers", "_modules")
_GROUPS = (list, tuple, dict)  # subtle: no classes of these, which are single values to torch
_PLAIN = (bool, int, float, str, type(None))


def rebind_(copied: nn.Module, memo: Mapping[int, object]) -> None:
    """Have functions that a copy keeps, as attributes or hooks, and weak references use what is the
    copy's own.

    Args:
        memo: of `copy.deepcopy`: by id, what stands in the copy for what was copied.
    """
    memo = dict(memo)
    for module in copied.modules():
        kept = vars(module)
        for name, value in kept.items():
            if name in _TENSORS or isinstance(value, _PLAIN) or (name in OWN and not value):
                continue
            if any(_holds(leaf, memo, set()) for leaf in tree_leaves(value)):
                kept[name] = tree_map(lambda leaf: _rebound(leaf, memo), value)


def _rebound(value: object, memo: dict[int, object]) -> object:
    """What stands for a value in the copy."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, partial):  # copied with its arguments, but for the function
        return partial(_rebound(value.func, memo), *value.args, **value.keywords)
    if not _holds(value, memo, set()):
        return value
    if isinstance(value, MethodType):
        own = value.__self__
        return MethodType(_rebound(value.__func__, memo), memo.get(id(own), own))
    if type(value) in _GROUPS:
        memo[id(value)] = tree_map(lambda leaf: _rebound(leaf, memo), value)
        return memo[id(value)]
    if isinstance(value, ReferenceType):
        return ref(memo[id(value())])
    cells = [(cell, memo.setdefault(id(cell), CellType())) for cell in value.__closure__ or ()]
    made = FunctionType(
        value.__code__, value.__globals__, value.__name__, value.__defaults__,
        tuple(copied for _, copied in cells),
    )  # fmt: skip
    made.__kwdefaults__ = value.__kwdefaults__
    memo[id(value)] = made  # subtle: before its cells are filled, for one may hold it
    made.__dict__ |= {name: _rebound(kept, memo) for name, kept in vars(value).items()}
    for cell, copied in cells:
        for inside in _inside(cell):
            copied.cell_contents = _rebound(inside, memo)
    made.__defaults__ = value.__defaults__ and tuple(_rebound(d, memo) for d in value.__defaults__)
    made.__kwdefaults__ = value.__kwdefaults__ and {
        name: _rebound(default, memo) for name, default in value.__kwdefaults__.items()
    }
    return made


def _holds(value: object, memo: Mapping[int, object], seen: set[int]) -> bool:
    """Whether a value is a function, method or weak reference that holds something that was copied,
    or a list of such."""
    if type(value) in _GROUPS:
        leaves = tree_leaves(value)
        return any(id(leaf) in memo or _holds(leaf, memo, seen) for leaf in leaves)
    if isinstance(value, ReferenceType):
        return id(value()) in memo
    if isinstance(value, partial):
        value = value.func
    if isinstance(value, MethodType):
        return id(value.__self__) in memo or _holds(value.__func__, memo, seen)
    if not isinstance(value, FunctionType) or id(value) in seen:
        return False
    seen.add(id(value))
    held = [inside for cell in value.__closure__ or () for inside in _inside(cell)]
    held += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    return any(id(inside) in memo or _holds(inside, memo, seen) for inside in held)


def _inside(cell: CellType) -> Iterator[object]:
    try:
        yield cell.cell_contents
    except ValueError:  # nothing in it yet
        pass
