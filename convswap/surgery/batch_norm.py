"""Batch-norm statistics after conversion: the original's, or those of the new activations."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..network.calls import Batch
from ..network.outputs import Reference


@torch.no_grad()
def settle_batch_norm_(small: nn.Module, batches: Sequence[Batch], reference: Reference) -> None:
    """Re-estimate the statistics if that brings held-back samples closer to the original."""
    norms = [m for m in small.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms or not batches:
        return
    before = reference.distance(small)
    kept = [copy.deepcopy(norm.state_dict()) for norm in norms]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
        norm.train()
    try:
        for batch in batches:
            batch.run(small)
        estimated = True
    except ValueError:  # a batch norm over single values has no statistics
        estimated = False
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
    if not (estimated and reference.distance(small) < before):
        for norm, state in zip(norms, kept, strict=True):
            norm.load_state_dict(state)
