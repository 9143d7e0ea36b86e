"""Weights under other names than a network's own: those it had once, or its authors gave."""

from __future__ import annotations

import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from ..network.copies import deep_copy
from ..support.quiet import quiet

# of torchvision's densenets, when names of modules could hold points
_POINTS = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def renamed(state: Mapping[str, Tensor], model: nn.Module) -> Iterator[tuple[str, dict]]:
    """Ways to read a state dict whose names are not a network's: what is said of each, and what
    it gives. Not all of them fit.

    Args:
        model: it is not changed.
    """
    ways: dict[str, Callable[[], Mapping]] = {
        "as the network itself does": lambda: _by_itself(state, model),
        "as torchvision does": lambda: {_POINTS.sub(r"\1\2", n): state[n] for n in state},
    }
    # subtle: timm has one for each family, beside its networks
    own = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if own and type(model).__module__.startswith("timm."):
        ways["as timm does"] = lambda: own(dict(state), model)
    for how, way in ways.items():
        try:
            with quiet():
                found = dict(way())
        except Exception:  # it runs the network's own code, on what may be anything
            continue
        yield how, found


@torch.no_grad()
def _by_itself(state: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """What a network makes of a state dict that says nothing of versions, as modules are told that
    have been built in another way since (weight norm in PyTorch, perceptrons in torchvision)."""
    model = deep_copy(model)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)
    nn.Module.load_state_dict(model, OrderedDict(state))
    # subtle: some modules pass over what does not fit them
    return {
        n: t
        for n, t in model.state_dict().items()
        if not t.is_floating_point() or t.isfinite().all()
    }


def with_shared_(state: dict[str, Tensor], model: nn.Module) -> None:
    """Add what a file lacks because a network has it under two names, and it was saved under one,
    as safetensors and transformers do."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for alike in names.values():
        held = [name for name in alike if name in state]
        for name in alike:
            if held:
                state.setdefault(name, state[held[0]])
