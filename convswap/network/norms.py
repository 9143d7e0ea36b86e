"""Batch norms, and the layers before them that can do their work."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from ..errors import PlanError
from ..forms import REPLACEABLE, Factorized, become_, kernel_of, write_kernel_
from .bake import is_plain

_NORMS = {kind.forward for kind in (_BatchNorm, SyncBatchNorm, FrozenBatchNorm2d)}
_ACTING = (BatchNormAct2d, FrozenBatchNormAct2d, SyncBatchNormAct)
_WITH_ACTIVATION = {kind.forward for kind in _ACTING}


def is_foldable(norm: nn.Module, layer: nn.Module) -> bool:
    """Whether a layer can do the work of a batch norm that reads its output: the norm has fixed
    statistics, both compute what their tensors say, and nothing watches what lies between."""
    layer = layer[-1] if isinstance(layer, Factorized) else layer
    known = type(norm).forward in _NORMS | _WITH_ACTIVATION and "forward" not in vars(norm)
    if not known or not isinstance(layer, REPLACEABLE) or not is_plain(layer):
        return False
    own = isinstance(layer._parameters.get("weight"), nn.Parameter)
    hooks = any(m._forward_hooks or m._forward_pre_hooks for m in (norm, layer))
    fixed = getattr(norm, "running_mean", None) is not None
    return own and fixed and not hooks and norm.running_mean.numel() == len(kernel_of(layer))


@torch.no_grad()
def fold_(model: nn.Module, norms: Mapping[str, str]) -> nn.Module:
    """Fold batch norms into layers, in place: what is left of a norm is its activation, if it has
    one.

    Args:
        norms: path of a batch norm -> that of the layer whose output it reads, or of what stands
            there in its place.

    Raises:
        PlanError: there are no such modules, or they cannot be folded.
    """
    for path, site in norms.items():
        try:
            norm, layer = model.get_submodule(path), model.get_submodule(site)
        except AttributeError:
            raise PlanError(f"the network has no modules {path} and {site}") from None
        if not is_foldable(norm, layer):
            raise PlanError(f"{path} cannot be folded into {site}")
        _fold_(norm, layer[-1] if isinstance(layer, Factorized) else layer)
    return model


def _fold_(norm: nn.Module, layer: nn.Module) -> None:
    def double(values: Tensor | None, otherwise: float) -> Tensor | float:
        return otherwise if values is None else values.double()

    kernel = kernel_of(layer)
    scale = double(norm.weight, 1) * (norm.running_var.double() + norm.eps).rsqrt()
    shift = double(norm.bias, 0) + (double(layer.bias, 0) - norm.running_mean.double()) * scale
    write_kernel_(layer, kernel * scale.view(-1, *[1] * (kernel.dim() - 1)))
    layer.bias = nn.Parameter(shift.to(kernel.dtype), layer.weight.requires_grad)
    rest = nn.Identity()
    if type(norm).forward in _WITH_ACTIVATION:
        rest = nn.Sequential(OrderedDict(drop=norm.drop, act=norm.act))
    become_(norm, rest.train(norm.training))
