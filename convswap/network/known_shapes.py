"""Norms, linear and recurrent layers, attention and sums on the meta device, where PyTorch works
out in Python what they give: most of the time that a network takes there."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C import DisableTorchFunction
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .cost import Counter

_NEW = {  # each makes new tensors
    F.batch_norm, F.layer_norm, F.group_norm, F.gelu, F.linear, torch.lstm, torch.gru,
    F.scaled_dot_product_attention, Tensor.add, Tensor.sub, Tensor.mul, torch.cat,
}  # fmt: skip


class KnownShapes(TorchFunctionMode):
    """What they give is worked out once for all arguments of the same shapes.

    Args:
        counter: that counts meanwhile, if any.
    """

    def __init__(self, counter: Counter | None = None):
        super().__init__()
        self._counter = counter or Counter()
        self._known: dict[Hashable, tuple[object, int]] = {}

    def __torch_function__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        kwargs = kwargs or {}
        if func not in _NEW or torch.is_grad_enabled():
            return func(*args, **kwargs)
        with DisableTorchFunction():
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            key = (func, _shapes(args), _shapes([*kwargs.items()])) if _are_plain(tensors) else None
            if key in self._known:
                made, macs = self._known[key]
                self._counter.spared += macs
                return _made(made)
        before = self._counter.macs
        result = func(*args, **kwargs)
        if key:
            with DisableTorchFunction():
                self._known[key] = _shapes(result), self._counter.macs - before
        return result


class _Shape(NamedTuple):
    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


def _are_plain(tensors: list[Tensor]) -> bool:
    kinds = (Tensor, nn.Parameter)
    return all(
        t.is_meta and type(t) in kinds and not is_functorch_wrapped_tensor(t) for t in tensors
    )


def _shapes(value: object) -> object:
    """A value with the shapes of tensors in place of them; hashable. Numbers have their types, on
    which that of a sum depends."""
    if isinstance(value, Tensor):
        return _Shape(value.shape, value.stride(), value.dtype)
    if isinstance(value, (tuple, list)):
        return tuple(map(_shapes, value))
    return (type(value), value) if isinstance(value, (bool, int, float)) else value


def _made(value: object) -> object:
    if isinstance(value, _Shape):
        return torch.empty_strided(value.size, value.stride, dtype=value.dtype, device="meta")
    return tuple(map(_made, value)) if isinstance(value, tuple) else value
