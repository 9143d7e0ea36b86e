"""All that a network holds, by name: some networks' own `state_dict` renames or leaves out, and
their `load_state_dict` takes no more than they need."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

OWN = frozenset(vars(nn.Module()))  # attributes that every module has


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer that is to be kept, named as PyTorch does, without a copy."""
    state: dict[str, Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        module._save_to_state_dict(state, f"{path}." if path else "", keep_vars=False)
    return state


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
