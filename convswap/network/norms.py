"""Batch norms that the layers before them can do the work of."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

from ..errors import ConversionError, PlanError
from ..forms import REPLACEABLE, Factorized, become_, kernel_of, write_kernel_
from ..plans import Cost
from ..record import record_of, remember
from ..support.loaded import loaded
from .alike import alike
from .bake import is_plain
from .batch import Batch
from .copies import deep_copy, parameters_of

_NORMS = {kind.forward for kind in (_BatchNorm, SyncBatchNorm)}
_FROZEN = "torchvision.ops:FrozenBatchNorm2d"
_ACTING = [f"timm.layers:{name}"
           for name in ("BatchNormAct2d", "FrozenBatchNormAct2d", "SyncBatchNormAct")]  # fmt: skip


@dataclass(frozen=True)
class Norm:
    """A batch norm that can be folded into a layer.

    Attributes:
        path: its own.
        layer: path of the layer whose output it alone reads.
        cost: of the norm; it runs no multiply-adds of convolutions.
        bias: what the bias costs that the layer then needs.
    """

    path: str
    layer: str
    cost: Cost
    bias: Cost


def find_norms(model: nn.Module, readers: Mapping[str, str]) -> tuple[Norm, ...]:
    """The batch norms that can be folded.

    Args:
        readers: path of a module -> that of the layer whose output it reads, both running once,
            where nobody else reads it.
    """
    uses = Counter(map(id, parameters_of(model)))
    found = []
    for path, site in readers.items():
        norm, layer = model.get_submodule(path), model.get_submodule(site)
        if _is_foldable(norm, layer) and uses[id(layer.weight)] == 1:
            own = [*norm._parameters.values(), *norm._buffers.values()]
            tensors = [tensor for tensor in own if tensor is not None]
            params = [tensor for tensor in tensors if isinstance(tensor, nn.Parameter)]
            cost = Cost(0, sum(t.numel() for t in params), sum(t.nbytes for t in tensors))
            out = len(norm.running_mean)
            found.append(Norm(path, site, cost, Cost(0, out, out * layer.weight.element_size())))
    return tuple(found)


def _is_foldable(norm: nn.Module, layer: nn.Module) -> bool:
    """Whether a norm has fixed statistics, norm and layer compute what their tensors say, and
    nothing watches what lies between."""
    forward = type(norm).forward
    frozen = forward in [kind.forward for kind in loaded(_FROZEN)]
    known = forward in _NORMS or frozen or _has_activation(norm)
    if not known or "forward" in vars(norm):
        return False
    if not isinstance(layer, REPLACEABLE) or not is_plain(layer):
        return False
    own = isinstance(layer._parameters.get("weight"), nn.Parameter)
    hooks = any(m._forward_hooks or m._forward_pre_hooks for m in (norm, layer))
    fixed = getattr(norm, "running_mean", None) is not None
    return own and fixed and not hooks and norm.running_mean.numel() == len(kernel_of(layer))


def _has_activation(norm: nn.Module) -> bool:
    """Whether it is a norm of timm's, which holds its activation."""
    return type(norm).forward in [kind.forward for each in _ACTING for kind in loaded(each)]


def folded(model: nn.Module, norms: Sequence[Norm], example: Batch) -> nn.Module:
    """A copy of a network with batch norms folded into the layers before them, which its record
    tells.

    Args:
        example: on which what is compared of the output is to stay.

    Raises:
        ConversionError: it puts out something else.
    """
    where = {norm.path: norm.layer for norm in norms}
    small = fold_(deep_copy(model), where)
    if not alike(model, small, example):
        raise ConversionError(
            f"{type(model).__name__} puts out something else when its batch norms are folded: "
            "forward does more with them than run them"
        )
    return remember(small, norms=record_of(model).norms | where)


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
        while isinstance(layer, Factorized):
            layer = layer[-1]
        if not _is_foldable(norm, layer):
            raise PlanError(f"{path} cannot be folded into {site}")
        _fold_(norm, layer)
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
    if _has_activation(norm):
        rest = nn.Sequential(OrderedDict(drop=norm.drop, act=norm.act))
    become_(norm, rest.train(norm.training))
