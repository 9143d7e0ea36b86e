"""Values in one another: tuples, lists, mappings, dataclasses and arrays, as batches come."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass

import numpy as np
import torch
from torch import Tensor


def map_tensors(tree: object, change: Callable[[Tensor], Tensor]) -> object:
    """The same tree with every tensor changed; an array of numbers counts as one, and stays an
    array."""

    def each(value: object) -> object:
        return map_tensors(value, change)

    if isinstance(tree, Tensor):
        return change(tree)
    if is_array(tree):
        return change(torch.from_numpy(tree)).cpu().numpy()
    if isinstance(tree, Mapping):
        values = {key: each(value) for key, value in tree.items()}
        return values if type(tree) is dict else _refilled(tree, values)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*map(each, tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(map(each, tree))
    if is_dataclass(tree) and not isinstance(tree, type):
        made = copy.copy(tree)
        for field in fields(tree):
            object.__setattr__(made, field.name, each(getattr(tree, field.name)))
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


def is_array(value: object) -> bool:
    """Whether it is an array of numbers that PyTorch knows."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiubc" and value.dtype.isnative


def _refilled(tree: Mapping, values: dict) -> object:
    made = copy.copy(tree)
    try:
        for key, value in values.items():
            made[key] = value
    except TypeError:  # it cannot be written to
        return values
    return made
