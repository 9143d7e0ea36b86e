"""All that a network holds, by name: some networks' own `state_dict` renames or leaves out, and
their `load_state_dict` takes no more than they need."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import ModelError

OWN = frozenset(vars(nn.Module()))  # attributes that every module has
LARGEST = 1e18  # of a weight; its square is still a float32


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer that is to be kept, named as PyTorch does, without a copy."""
    state: dict[str, Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        module._save_to_state_dict(state, f"{path}." if path else "", keep_vars=False)
    return state


def unkept_of(model: nn.Module) -> list[str]:
    """Names of what a file of weights cannot hold: no tensors, or quantised ones."""
    return [
        name
        for name, value in state_of(model).items()
        if not isinstance(value, Tensor) or value.is_quantized
    ]


def set_state_(model: nn.Module, state: Mapping[str, Tensor], assign: bool = False) -> None:
    """Give a network what `state_of` gave, in place.

    Args:
        assign: put these tensors in, in place of copying their values.
    """
    nn.Module.load_state_dict(model, of_today(state, model), assign=assign)


def of_today(state: Mapping[str, Tensor], model: nn.Module) -> OrderedDict[str, Tensor]:
    """A state dict that has a network's names and shapes, and says so: some modules read one that
    says nothing as an older version's (torchvision's mnasnet, PyTorch's batch norm)."""
    state = OrderedDict(state)
    modules = model.named_modules(remove_duplicate=False)
    state._metadata = {path: {"version": module._version} for path, module in modules}
    return state


def attributes_of(module: nn.Module) -> dict[str, object]:
    """What a module keeps beside its parameters, buffers, children and hooks."""
    return {name: value for name, value in vars(module).items() if name not in OWN}


def check_finite(model: nn.Module) -> None:
    """Raise `ModelError` naming the parameters and statistics that no forward pass can use: without
    values, sparse, NaN, infinity, values whose squares are infinite, and negative variances. (Other
    buffers hold what they like: masks are infinite.)"""
    if sparse := [n for n, p in model.named_parameters() if p.layout != torch.strided]:
        raise ModelError(f"weights are sparse: {', '.join(sparse[:3])}", do="make them dense")
    free = {
        name
        for name, _ in model.named_buffers(remove_duplicate=False)
        if not name.endswith(("running_mean", "running_var"))
    }
    state = {
        name: tensor
        for name, tensor in state_of(model).items()
        if isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.is_floating_point()
        and tensor.numel()
    }
    ranges = {
        name: [end.item() for end in tensor.float().aminmax()]
        for name, tensor in state.items()
        if not tensor.is_meta and name not in free
    }
    empty = [name for name, tensor in state.items() if tensor.is_meta]
    for what, bad in (
        ("without values, on the meta device", empty),
        ("NaN or infinite", [n for n, ends in ranges.items() if not all(map(math.isfinite, ends))]),
        ("too large to compute with", [n for n, (low, high) in ranges.items()
                                       if max(-low, high) > LARGEST]),
        ("negative variances", [n for n, (low, _) in ranges.items()
                                if n.endswith("running_var") and low < 0]),
    ):  # fmt: skip
        if bad:
            shown = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
            raise ModelError(f"weights are {what}: {shown}", do="check the weights file")
