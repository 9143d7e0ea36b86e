"""Weights that a file holds in parts, as they are trained: norm and direction, weight and mask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor


def composed(
    state: Mapping[str, Tensor], wanted: Iterable[str]
) -> tuple[Mapping[str, Tensor], list[str]]:
    """A state dict with parts put together for a network that has none itself: those of weight
    norm and spectral norm, old and new, and of pruning; and which of these it had.

    Args:
        wanted: the names of the network's tensors.
    """
    if any(_ends(name, parts[0]) for _, parts, *_ in _KINDS for name in wanted):
        return state, []
    whole, kinds = dict(state), []
    for kind, parts, word, put in _KINDS:
        for name in [name for name in state if _ends(name, parts[0])]:
            names = [name.removesuffix(parts[0]) + part for part in parts]
            value = _together([state.get(each) for each in names], put)
            if value is not None:
                for each in names:
                    del whole[each]
                whole[name.removesuffix(parts[0]) + word] = value
                kinds += [kind] * (kind not in kinds)
    return whole, kinds


def _ends(name: str, word: str) -> bool:
    return f".{name}".endswith(f".{word}")


def _together(parts: Sequence[Tensor | None], put: Callable[..., Tensor | None]) -> Tensor | None:
    """What parts make, if they are there, dense, and of sizes that fit."""
    for each in parts:
        if each is None or each.layout != torch.strided or not each.is_floating_point():
            return None
    return put(*parts)


def _normed(norm: Tensor, direction: Tensor) -> Tensor | None:
    """Weight norm (Salimans and Kingma 2016): there is a norm for each place along the axes that
    `norm` has."""
    if not _is_broadcast(norm, direction):
        return None
    over = [axis for axis in range(direction.dim()) if norm.dim() == 0 or norm.shape[axis] == 1]
    return direction * (norm / torch.linalg.vector_norm(direction, dim=over, keepdim=True))


def _divided(left: Tensor, right: Tensor, weight: Tensor) -> Tensor | None:
    """Spectral norm (Miyato et al. 2018): a weight over its largest singular value, by the vectors
    that belong to it; rows are output channels, which transposed convolutions have second."""
    found = []
    for axis in range(min(2, weight.dim())):
        rows = weight.movedim(axis, 0).flatten(1).float()
        if rows.shape == (left.numel(), right.numel()):
            found.append(left.float() @ rows @ right.float())
    return weight / max(found).to(weight.dtype) if found else None


def _masked(mask: Tensor, weight: Tensor) -> Tensor | None:
    return mask * weight if _is_broadcast(mask, weight) else None


_NEW = "parametrizations.weight."
_KINDS = (
    ("weight norm", ("weight_g", "weight_v"), "weight", _normed),
    ("weight norm", (f"{_NEW}original0", f"{_NEW}original1"), "weight", _normed),
    ("spectral norm", ("weight_u", "weight_v", "weight_orig"), "weight", _divided),
    ("spectral norm", (f"{_NEW}0._u", f"{_NEW}0._v", f"{_NEW}original"), "weight", _divided),
    ("pruning", ("weight_mask", "weight_orig"), "weight", _masked),
    ("pruning", ("bias_mask", "bias_orig"), "bias", _masked),
)


def _is_broadcast(small: Tensor, large: Tensor) -> bool:
    """Whether the first has a value for each place of the second, along all or some of its axes."""
    sizes = zip(small.shape, large.shape, strict=False)
    return small.dim() in (0, large.dim()) and all(a in (1, b) for a, b in sizes)
