"""Values in one another: tuples, lists, mappings, dataclasses and arrays, as batches come, and
what holds them in attributes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

Path = tuple[object, ...]
"""Where in a tree a value is: the keys and positions that lead there."""

ARGUMENT = 2  # how long the path to an argument is, in a tree `(args, kwargs)`


def map_tensors(
    tree: object,
    change: Callable[[Tensor], Tensor],
    special: Mapping[Path, Callable[[Any], object]] = {},
    path: Path = (),
) -> object:
    """The same tree with every tensor changed; an array of numbers counts as one, and stays an
    array. Of other objects those are looked into that are arguments themselves.

    Args:
        special: how what is at some paths becomes something else, as a whole.
        path: of the tree itself.
    """

    def each(entry: tuple[object, object]) -> object:
        return map_tensors(entry[1], change, special, (*path, entry[0]))

    if path in special:
        return special[path](tree)
    if isinstance(tree, Tensor):
        return change(tree)
    if is_array(tree):
        return change(tensor_of(tree)).cpu().numpy()
    if isinstance(tree, Mapping):
        values = {key: each((key, value)) for key, value in tree.items()}
        return values if type(tree) is dict else _refilled(tree, values)
    if isinstance(tree, PackedSequence):  # the rest of it is about its rows, and stays on the CPU
        return tree._replace(data=change(tree.data))
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*map(each, enumerate(tree)))
    if isinstance(tree, (tuple, list)):
        return type(tree)(map(each, enumerate(tree)))
    if is_dataclass(tree) and not isinstance(tree, type):
        made = copy.copy(tree)
        for field in fields(tree):
            value = each((field.name, getattr(tree, field.name)))
            object.__setattr__(made, field.name, value)
        return made
    if len(path) == ARGUMENT and (held := _held_by(tree)):
        made = copy.copy(tree)
        made.__dict__.update({name: each((name, value)) for name, value in held.items()})
        return made
    return tree


def tensors_in(tree: object) -> list[Tensor]:
    """All tensors of a tree, in order."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(tree, keep)
    return found


def paths_in(tree: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """All values within tuples, lists and mappings, these among them, with where they are."""
    yield path, tree
    if isinstance(tree, Mapping):
        entries = tree.items()
    else:
        entries = enumerate(tree) if isinstance(tree, (tuple, list)) else ()
    for key, value in entries:
        yield from paths_in(value, (*path, key))


def _held_by(value: object) -> Mapping[str, object]:
    """Tensors, and what may hold them, in the attributes of an object of a class of the user's, as
    a graph or images with a mask are."""
    if isinstance(value, type) or callable(value):
        return {}
    attributes = getattr(value, "__dict__", {})
    kinds = (Tensor, np.ndarray, Mapping, tuple, list)
    return {name: each for name, each in attributes.items() if isinstance(each, kinds)}


def is_array(value: object) -> bool:
    """Whether it is an array of numbers that PyTorch knows."""
    if not isinstance(value, np.ndarray) or value.dtype.type in (np.longdouble, np.clongdouble):
        return False
    return value.dtype.kind in "fiubc" and value.dtype.isnative


def tensor_of(array: np.ndarray) -> Tensor:
    """An array as a tensor, in the same memory unless it runs backwards through that."""
    return torch.from_numpy(array if min(array.strides, default=0) >= 0 else array.copy())


def _refilled(tree: Mapping, values: dict) -> object:
    made = copy.copy(tree)
    try:
        for key, value in values.items():
            made[key] = value
    except TypeError:  # it cannot be written to
        return values
    return made
