"""Weights that a file holds in parts, as they are trained: norm and direction, weight and mask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def composed(state: Mapping[str, Tensor], wanted: Iterable[str]) -> Mapping[str, Tensor]:
    """A state dict with parts put together for a network that has none itself: those of weight
    norm, old and new, and of pruning; the same one, if it is of whole weights.

    Args:
        wanted: the names of the network's tensors.
    """
    if any(_ends(name, first) for first, *_ in _PARTS for name in wanted):
        return state
    whole = dict(state)
    for first, second, word, put in _PARTS:
        for name in [name for name in state if _ends(name, first)]:
            before = name.removesuffix(first)
            parts = state[name], state.get(before + second)
            if parts[1] is not None and _is_broadcast(*parts):
                del whole[name], whole[before + second]
                whole[before + word] = put(*parts)
    return whole if whole.keys() != state.keys() else state


def _ends(name: str, word: str) -> bool:
    return f".{name}".endswith(f".{word}")


def _normed(norm: Tensor, direction: Tensor) -> Tensor:
    """Weight norm (Salimans and Kingma 2016): there is a norm for each place along the axes that
    `norm` has."""
    over = [axis for axis in range(direction.dim()) if norm.dim() == 0 or norm.shape[axis] == 1]
    return direction * (norm / torch.linalg.vector_norm(direction, dim=over, keepdim=True))


_PARTS = (
    ("weight_g", "weight_v", "weight", _normed),
    ("parametrizations.weight.original0", "parametrizations.weight.original1", "weight", _normed),
    ("weight_mask", "weight_orig", "weight", torch.mul),
    ("bias_mask", "bias_orig", "bias", torch.mul),
)


def _is_broadcast(small: Tensor, large: Tensor) -> bool:
    """Whether both are dense, and the first has a value for each place of the second, along all or
    some of its axes."""
    both, sizes = (small, large), zip(small.shape, large.shape, strict=False)
    dense = all(each.layout == torch.strided and each.is_floating_point() for each in both)
    return dense and small.dim() in (0, large.dim()) and all(a in (1, b) for a, b in sizes)
