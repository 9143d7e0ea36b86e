"""Sites: the convolutions of a network, and for each one left alone, the reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.layers import Conv2dSame
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from ..forms import FORMS, Kernel, Layer, Rank
from ..plans import Cost
from .copies import dry_copy, trace
from .cost import Size, layers_cost
from .sums import Sum, find_sums

REPLACEABLE = (nn.Conv2d, Conv2dSame)
_ACTIVATIONS = tuple(
    getattr(nn, name) for name in nn.modules.activation.__all__ if name != "MultiheadAttention"
)  # fmt: skip


@dataclass(frozen=True)
class Site:
    """One convolution of a network.

    Attributes:
        path: module path in the user's network, the first of all `paths` it stands under.
        kernel: weight shape, `[out, in / groups, kh, kw]` of a Conv2d.
        sizes: input and output size of every call of a 2-D convolution; empty if never run.
        positions: how often the kernel is applied to one image, all calls together.
        norm, act: class names of the normalisation and activation that follow, if any is known.
        sum: the sum it feeds, if it does and the other addend is computed before it.
        reason: why the site is left alone; None if it can be replaced.
    """

    path: str
    paths: tuple[str, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    padding_mode: str
    dilation: tuple[int, ...]
    groups: int
    bias: bool
    itemsize: int
    out_channels: int
    sizes: tuple[Size, ...] = ()
    positions: int = 0
    norm: str | None = None
    act: str | None = None
    sum: Sum | None = None
    reason: str | None = None

    @property
    def calls(self) -> int:
        """How often one forward pass runs the convolution."""
        return len(self.sizes)

    @property
    def cost(self) -> Cost:
        """What the dense convolution costs, all calls together."""
        weights = math.prod(self.kernel)
        params = weights + self.bias * self.out_channels
        return Cost(weights * self.positions, params, params * self.itemsize)

    @property
    def forms(self) -> list[str]:
        """Names of the forms that could replace it; empty where it is left alone."""
        if self.reason:
            return []
        return [name for name, form in FORMS.items() if form.applies(Kernel(*self.kernel))]


def find_sites(model: nn.Module, input_size: Sequence[int]) -> tuple[list[Site], str]:
    """Every convolution of a network, in execution order; the ones that never run come last.

    Args:
        input_size: `(channels, height, width)`.

    Returns:
        The sites, and a note: empty, or why the graph could not be traced (then what follows
        each convolution is unknown; everything else is the same).
    """
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _ConvNd):
            paths.setdefault(module, []).append(path)
    order: dict[str, list[Size]] = {}
    positions: dict[str, int] = {}

    def watch(path: str):
        def hook(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            sizes = order.setdefault(path, [])
            grid = inputs[0] if module.transposed else output
            positions[path] = positions.get(path, 0) + math.prod(grid.shape[2:])
            if inputs and inputs[0].dim() == output.dim() == 4:
                sizes.append(Size(*inputs[0].shape[-2:], *output.shape[-2:]))

        return hook

    duplicate, image = dry_copy(model, input_size)
    for names in paths.values():
        duplicate.get_submodule(names[0]).register_forward_hook(watch(names[0]))
    sums = find_sums(duplicate, image, [names[0] for names in paths.values()])
    graph, note = trace(model)
    sites = [
        _site(model, module, names, order, positions, sums, graph)
        for module, names in paths.items()
    ]
    rank = {path: i for i, path in enumerate(order)}
    return sorted(sites, key=lambda site: rank.get(site.path, len(rank))), note


def _site(
    model: nn.Module,
    conv: _ConvNd,
    paths: list[str],
    order: dict[str, list[Size]],
    positions: dict[str, int],
    sums: dict[str, Sum],
    graph: fx.Graph | None,
) -> Site:
    norm, act = _followers(model, paths, graph)
    return Site(
        path=paths[0],
        paths=tuple(paths),
        kernel=tuple(conv.weight.shape),
        stride=conv.stride,
        padding=conv.padding,
        padding_mode=conv.padding_mode,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
        itemsize=conv.weight.element_size(),
        out_channels=conv.out_channels,
        sizes=tuple(order.get(paths[0], ())),
        positions=positions.get(paths[0], 0),
        norm=norm,
        act=act,
        sum=sums.get(paths[0]),
        reason=_reason(model, conv, paths, order, graph),
    )


def _reason(
    model: nn.Module, conv: _ConvNd, paths: list[str], order: dict, graph: fx.Graph | None
) -> str | None:
    """Why this convolution is left alone; None if nothing speaks against replacing it."""
    kind = type(conv)
    if kind not in REPLACEABLE:
        if not isinstance(conv, nn.Conv2d):
            return f"{kind.__name__}: only Conv2d is replaced"
        return f"{kind.__name__} computes its weight or output in its own way"
    if paths[0] not in order:
        return "never run by forward, or run without calling the module"
    if not order[paths[0]]:
        return "its input is not a batch of images"
    if conv.groups > 1:
        return "already depthwise" if conv.groups == conv.in_channels else "already grouped"
    if not conv.weight.is_floating_point():
        return f"its weight is {conv.weight.dtype}"
    if hasattr(conv, "parametrizations") or conv._forward_pre_hooks or conv._forward_hooks:
        return "its weight is parametrized, or hooks run with it"
    if twin := _twin(model, conv):
        return f"shares its weight with {twin}"
    if graph and any(
        node.op == "get_attr" and node.target.rpartition(".")[0] in paths for node in graph.nodes
    ):
        return "its weight is read directly by forward"
    dense = Layer("dense", conv.in_channels, conv.out_channels, conv.kernel_size).weights
    kernel = Kernel(*conv.weight.shape)
    least = min(
        sum(layer.weights for layer in form.layers(kernel, (1, 1) if name == "tucker" else 1))
        for name, form in FORMS.items()
        if form.applies(kernel)
    )
    return None if least < dense else "too small: no form is cheaper"


def _twin(model: nn.Module, conv: nn.Conv2d) -> str | None:
    for path, module in model.named_modules():
        if module is not conv and any(p is conv.weight for p in module._parameters.values()):
            return path
    return None


def _followers(
    model: nn.Module, paths: list[str], graph: fx.Graph | None
) -> tuple[str | None, str | None]:
    """The normalisation and activation right after a convolution, as class names."""
    if graph is None:
        return None, None
    node = next((n for n in graph.nodes if n.op == "call_module" and n.target in paths), None)
    norm = act = None
    while node is not None and len(node.users) == 1:
        node = next(iter(node.users))
        if node.op == "call_module":
            module = model.get_submodule(node.target)
            name = type(module).__name__
            if isinstance(module, nn.modules.batchnorm._NormBase) and norm is None and act is None:
                norm = name
                continue
            if isinstance(module, _ACTIVATIONS):
                act = name
        elif node.op in ("call_function", "call_method"):
            name = node.target if isinstance(node.target, str) else node.target.__name__
            names = {activation.__name__.lower() for activation in _ACTIVATIONS}
            act = name if name.replace("_", "") in names else None
        break
    return norm, act


def replacement_cost(site: Site, form: str, rank: Rank, bias: bool) -> Cost:
    """Cost of the layers that would stand in for a site."""
    layers = FORMS[form].layers(Kernel(*site.kernel), rank)
    return layers_cost(layers, site.sizes, site.itemsize, bias or site.bias)
