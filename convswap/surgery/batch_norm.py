"""Batch norms after conversion: which statistics they have, and that layers can do their work."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ConversionError, PlanError
from ..forms import REPLACEABLE
from ..network.bake import TOLERANCE
from ..network.calls import Batch, example_of, stand_in
from ..network.copies import (
    deep_copy,
    dry_run,
    in_eval_mode,
    keeps_buffers,
    parameters_of,
)
from ..network.norms import fold_, is_foldable
from ..network.outputs import Reference
from ..network.trees import tensors_in
from ..network.watch import watch
from ..network.wrappers import unwrapped
from ..record import record_of, remember
from ..support.progress import Note
from ..support.randomness import seeded


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


@keeps_buffers
def fold_norms(model: nn.Module, input_size: Sequence[int] | object = None) -> nn.Module:
    """A copy of a network whose batch norms are folded into the layers before them, wherever
    nothing else reads what the layer puts out.

    In eval mode the outputs are the same but for rounding, and PyTorch has less to do. (Runtimes
    that compile a network, and all files that are exported, have them folded anyhow.)

    Args:
        model: converted or not; it is put into eval mode, else untouched.
        input_size: `(channels, height, width)` of an image, or a batch of whatever the network
            takes; needed only where neither a plan nor its preprocessing tells.

    Raises:
        ConversionError: there is nothing to fold, or the outputs would be others.
    """
    model = in_eval_mode(unwrapped(model))
    example, record = _example(model, input_size), record_of(model)
    paths = [path for path, module in model.named_modules() if isinstance(module, REPLACEABLE)]
    seen = dry_run(model, example, lambda network, batch: watch(network, batch, paths)).found
    uses = Counter(map(id, parameters_of(model)))
    norms = {}
    for path, site in seen.readers.items():
        norm, layer = model.get_submodule(path), model.get_submodule(site)
        if is_foldable(norm, layer) and uses[id(layer.weight)] == 1:
            norms[path] = site
    if not norms:
        raise ConversionError(f"{type(model).__name__} has no batch norm that could be folded")
    folded = fold_(deep_copy(model), norms)
    if not _alike(model, folded, example):
        raise ConversionError(
            f"{type(model).__name__} puts out something else when its batch norms are folded: "
            "forward does more with them than run them"
        )
    return remember(folded, norms=record.norms | norms)


def folded_if(asked: bool, model: nn.Module, note: Note) -> nn.Module:
    """A network with its batch norms folded, if that is asked for and there are some; says what
    was done."""
    if not asked:
        return model
    try:
        folded = fold_norms(model)
    except ConversionError as error:  # no reason to lose what came before
        note(f"not folded: {error}")
        return model
    note(f"batch norms folded into the layers before them: {len(record_of(folded).norms)}")
    return folded


def _example(model: nn.Module, input_size: Sequence[int] | object) -> Batch:
    known = record_of(model)
    if input_size is None and known.plans:
        return stand_in(model, known.plans[-1].inputs)
    if input_size is None and known.preprocess is None:
        raise PlanError("it is not known what the network reads", do="give input_size")
    return example_of(model, known.preprocess.input_size if input_size is None else input_size)


@torch.no_grad()
def _alike(model: nn.Module, folded: nn.Module, example: Batch) -> bool:
    """Whether two networks put out the same but for rounding, which adds up from layer to layer."""
    outputs = []
    for network in (model, folded):
        with seeded(0):
            try:
                outputs.append(tensors_in(example.forward(network)))
            except Exception:  # of the network's own code
                return False
    return len(outputs[0]) == len(outputs[1]) and all(
        ours.shape == theirs.shape
        and (ours - theirs).abs().max() <= 10 * TOLERANCE.get(ours.dtype, 3e-2) * ours.abs().max()
        for ours, theirs in zip(*outputs, strict=True)
        if ours.is_floating_point() and ours.numel()
    )
