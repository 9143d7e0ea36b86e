"""What people put around networks and their parts, taken off."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import UninitializedParameter
from torch.utils._pytree import tree_leaves

from ..errors import ModelError
from ..support.loaded import loaded
from .copies import deep_copy, without_modules
from .state import attributes_of

_COMPILED = "torch._dynamo.eval_frame:OptimizedModule"
_PLAIN = "_torchdynamo_orig_callable"  # of a compiled function


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself: without `DataParallel`, `DistributedDataParallel` or `torch.compile`
    around it (a copy, where `model.compile()` was called, or it was made in inference mode).

    Raises:
        ModelError: it is not made of modules any more.
    """
    while isinstance(model, (nn.DataParallel, DistributedDataParallel, *loaded(_COMPILED))):
        model = model._orig_mod if isinstance(model, loaded(_COMPILED)) else model.module
    if isinstance(model, torch.jit.ScriptModule) or not isinstance(model, nn.Module):
        raise without_modules(model)
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and any(True for _ in module.parameters()):
            raise ModelError(
                f"{path} is scripted: its layers cannot be looked at",
                do="give the network it was made from",
            )
        if any(isinstance(p, UninitializedParameter) for p in module._parameters.values()):
            raise ModelError(
                f"{path} has no weights yet", do="run the network on an input once before"
            )
    if any(_is_compiled(module) for module in model.modules()):
        model = _uncompiled_(deep_copy(model))
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        model = deep_copy(model)  # subtle: made here, its tensors know gradients
    return model


def _is_compiled(module: nn.Module) -> bool:
    return (
        isinstance(module, loaded(_COMPILED))
        or bool(vars(module).get("_compiled_call_impl"))
        or bool(_compiled_in(module))
    )


def _compiled_in(module: nn.Module) -> dict[str, Callable]:
    """What the methods, and functions kept, of a module were before they were compiled."""
    kinds = type(module).__mro__
    kept: dict[str, object] = {}
    for kind in reversed(kinds[: kinds.index(nn.Module)]):
        kept |= vars(kind)
    return {
        name: getattr(value, _PLAIN)
        for name, value in (kept | vars(module)).items()
        if isinstance(value, FunctionType) and hasattr(value, _PLAIN)
    }


def _uncompiled_(model: nn.Module) -> nn.Module:
    """A network whose parts were compiled, or what these do, as before."""
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if isinstance(child, loaded(_COMPILED)):
                module._modules[name] = child._orig_mod
        for name, plain in _compiled_in(module).items():
            if vars(module).pop(name, None) is None:  # it is of the class
                plain = MethodType(plain, module)
            if getattr(module, name, None) != plain:
                vars(module)[name] = plain
    return model


def hidden_in(model: nn.Module) -> list[str]:
    """The attributes, by path, that hold layers which PyTorch does not know of."""
    known = {*model.modules()}
    return [
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        for name, value in attributes_of(module).items()
        if isinstance(value, (list, tuple, dict))
        and any(
            isinstance(m, nn.Module) and m not in known and m.state_dict()
            for m in tree_leaves(value)
        )
    ]
