"""Whether two networks do the same, and whether a copy of one does, or one with other layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..errors import ModelError
from ..support.randomness import seeded
from .bake import TOLERANCE
from .batch import Batch
from .copies import deep_copy
from .stand_ins import with_stand_ins
from .trees import tensors_in


@torch.no_grad()
def alike(model: nn.Module, small: nn.Module, example: Batch) -> bool:
    """Whether two networks put out the same but for rounding, which adds up from layer to layer."""
    outputs = []
    for network in (model, small):
        with seeded(0):
            try:
                outputs.append(tensors_in(example.run(network)))
            except Exception:  # of the network's own code
                return False
    return len(outputs[0]) == len(outputs[1]) and all(
        ours.shape == theirs.shape
        and (ours - theirs).abs().max() <= 10 * TOLERANCE.get(ours.dtype, 3e-2) * ours.abs().max()
        for ours, theirs in zip(*outputs, strict=True)
        if ours.is_floating_point() and ours.numel()
    )


def check_copied(model: nn.Module, example: Batch, paths: Sequence[str]) -> None:
    """Raise `ModelError` where a copy of a network puts out something else, in its first pass or in
    the next, be it as it is or with stand-ins that do the same as the layers at some paths."""

    def is_like(copied: nn.Module) -> bool:
        return all(alike(model, copied, example) for _ in range(2))

    if is_like(with_stand_ins(model, paths)) or not alike(model, model, example):
        return
    name = type(model).__name__
    if is_like(deep_copy(model)):
        raise ModelError(f"{name} puts out something else where it has more layers than it had")
    raise ModelError(
        f"a copy of {name} puts out something else: forward uses what is not a part of it",
        do="look for parts known by id(), and for lists of layers outside of the network",
    )
