"""Look at a network once: its layers, and for each one left alone, the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..errors import ConversionError, PlanError
from ..forms import FORMS, is_transposed, unit_of
from ..plans import LONGEST, Cost, Layers, Plan
from ..support.randomness import seeded
from .bake import bake, computes_weight, hides_weights, is_plain, padding_of
from .calls import Batch, example_of
from .copies import dry_run, first_line, in_eval_mode, meta_copy
from .cost import Counter, Size, weigh
from .followers import followers_of
from .norms import Norm, find_norms
from .sites import Site
from .stand_ins import what_breaks
from .state import attributes_of
from .watch import Watcher, watch
from .wrappers import unwrapped

MOST_READ = 8192  # their second moments take 1 GiB, and what is computed from them several
NOT_ALLOWED = "left alone as asked"


@dataclass(frozen=True)
class Observation:
    """What is in a network.

    Attributes:
        sites: every convolution and linear layer, in execution order; the ones that never run
            come last.
        dense: cost of the whole network.
        plain: by path, plain layers that compute the same as those that compute their weight.
        norms: the batch norms that can be folded into the layers before them.
        example: the one sample it was observed on.
        dry: whether it ran without computing anything.
        note: empty, or why the graph could not be traced (then what follows each convolution
            is unknown; everything else is the same).
    """

    sites: tuple[Site, ...]
    dense: Cost
    plain: dict[str, nn.Module]
    norms: tuple[Norm, ...]
    example: Batch
    dry: bool
    note: str

    @property
    def replaceable(self) -> list[Site]:
        """The sites that can be replaced."""
        return [site for site in self.sites if not site.reason]

    def limited(self, layers: Layers) -> Observation:
        """The same, with reasons at the layers that may not be replaced, and the batch norms that
        are to be folded.

        Raises:
            PlanError: a pattern matches no layer, or there is nothing to fold.
        """
        for pattern in (*layers.only, *layers.exclude):
            if not any(Layers(only=(pattern,)).allow(site.path) for site in self.sites):
                raise PlanError(
                    f"no layer's path matches {pattern!r}", do="see `convswap inspect` for them"
                )
        sites = [
            site if site.reason or layers.allow(site.path) else replace(site, reason=NOT_ALLOWED)
            for site in self.sites
        ]
        left = {path: layer for path, layer in self.plain.items() if layers.allow(path)}
        if layers.fold_norms and not self.norms:
            raise PlanError("there is no batch norm that could be folded", do="omit fold_norms")
        norms = self.norms if layers.fold_norms else ()
        return replace(self, sites=tuple(sites), plain=left, norms=norms)


def observe(model: nn.Module, input_size: Sequence[int] | object) -> Observation:
    """Run a network once without computing anything, and trace it, to see what is in it.

    A second such run, with stand-ins that are no `nn.Conv2d`, tells which convolutions the
    network's own code cannot do without.

    Args:
        input_size: `(channels, height, width)` of an image, or a batch of whatever the network
            takes, of which the first sample is used.

    Raises:
        ModelError: the network fails on that.
    """
    model = unwrapped(model)
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, (_ConvNd, nn.Linear)):
            paths.setdefault(module, []).append(path)
    example = example_of(model, input_size)

    def look(network: nn.Module, batch: Batch) -> tuple[Watcher, int]:
        counter = Counter()
        found = watch(network, batch, [names[0] for names in paths.values()], counter)
        return found, counter.macs

    run = dry_run(model, example, look)
    seen, macs = run.found
    sums, followers, note = seen.sums, *followers_of(model)
    plain, owners = {}, _owners(model)
    baked = cache(lambda each: bake(model.get_submodule(each.path), each.size, each.dtype))
    for module, (path, *_) in paths.items():
        sizes = seen.sizes.get(path)
        if not sizes or not computes_weight(module):
            continue
        if twin := baked(_Alike.of(module, path, sizes[0], seen.types.get(path))):
            plain[path] = twin
    sites = [
        _site(module, plain.get(names[0]), names, seen, owners) for module, names in paths.items()
    ]
    broken = what_breaks(run.network, run.example, [s.path for s in sites if not s.reason], seen)
    sites = [replace(s, reason=broken[s.path]) if s.path in broken else s for s in sites]
    rank = {path: i for i, path in enumerate(seen.sizes)}
    sites.sort(key=lambda site: rank.get(site.path, len(rank)))
    plain = {s.path: plain[s.path] for s in sites if s.path in plain and not s.reason}
    for index, site in enumerate(sites):
        norm, act = next((followers[p] for p in site.paths if p in followers), (None, None))
        sites[index] = replace(site, norm=norm, act=act, sum=sums.get(site.path))
    norms = find_norms(model, seen.readers)
    return Observation(tuple(sites), weigh(model, macs), plain, norms, run.sample, run.dry, note)


def check_planned(small: nn.Module, plan: Plan, seen: Observation) -> None:
    """Run a network with the planned layers in place without computing anything.

    Raises:
        ConversionError: it fails, or executes other multiply-adds than planned.
    """
    if not seen.dry:  # its control flow depends on values, and it has none yet
        return
    # subtle: what operations a product becomes depends on whether a gradient is wanted
    duplicate, example = (
        in_eval_mode(meta_copy(small)).requires_grad_(False),
        seen.example.to("meta"),
    )
    try:
        with torch.no_grad(), seeded(0), Counter() as counter:
            example.run(duplicate)
    except Exception as error:
        raise ConversionError(
            f"{type(small).__name__} fails with the planned layers: {first_line(error)}"
        ) from error
    if counter.macs != plan.planned.macs:
        raise ConversionError(
            f"{type(small).__name__} runs {counter.macs} multiply-adds with the planned layers, "
            f"{plan.planned.macs} were planned: forward does something else with them",
            do="leave out of the plan what it asks for by class or name",
        )


def find_sites(model: nn.Module, input_size: Sequence[int] | object) -> tuple[list[Site], str]:
    """The sites and the note of `observe`."""
    seen = observe(model, input_size)
    return list(seen.sites), seen.note


def _site(
    module: nn.Module,
    twin: nn.Module | None,
    paths: list[str],
    seen: Watcher,
    owners: Mapping[int, Sequence[tuple[str, nn.Module]]],
) -> Site:
    layer = twin or module
    tensors = [*module.parameters(), *module.buffers()]
    unit, groups = unit_of(layer), getattr(layer, "groups", 1)
    positions = seen.positions.get(paths[0], 0)
    own = groups * math.prod(unit) * positions
    return Site(
        path=paths[0],
        paths=tuple(paths),
        kind=type(module).__name__,
        kernel=(groups * unit.out_channels, *unit[1:]),
        stride=getattr(layer, "stride", ()),
        padding=getattr(layer, "padding", ()),
        padding_mode=getattr(layer, "padding_mode", "zeros"),
        dilation=getattr(layer, "dilation", ()),
        groups=groups,
        bias=layer.bias is not None,
        params=sum(parameter.numel() for parameter in module.parameters()),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        itemsize=layer.weight.element_size(),
        out_channels=groups * unit.out_channels,
        transposed=is_transposed(layer),
        output_padding=getattr(layer, "output_padding", ()),
        sizes=tuple(seen.sizes.get(paths[0], ())),
        positions=positions,
        beside=0 if twin is None else seen.macs[paths[0]] - own,
        pads=None if twin is None else padding_of(twin),
        dtype=None if layer.weight.dtype == module.weight.dtype else str(layer.weight.dtype)[6:],
        reason=_reason(module, twin, paths[0], seen, owners),
    )


def _reason(
    layer: nn.Module,
    twin: nn.Module | None,
    path: str,
    seen: Watcher,
    owners: Mapping[int, Sequence[tuple[str, nn.Module]]],
) -> str | None:
    """Why this layer is left alone; None if nothing speaks against replacing it."""
    kind = type(layer).__name__
    if not path.isprintable() or len(path) > LONGEST:
        return "its name cannot be printed, or is too long"
    if not layer.weight.numel():
        return "it has no channels"
    if path not in seen.sizes:
        return "never run by forward, or run without calling the module"
    kept_in = (twin or layer).weight.dtype
    if (read := seen.types.get(path, kept_in)) != kept_in:
        return f"its weight is {str(kept_in)[6:]}, and it reads {str(read)[6:]}"
    if twin is None and not is_plain(layer):
        return f"{kind} computes its output in its own way"
    if path in seen.given:
        return "forward gives it more than what it reads"
    if path in seen.transformed:
        return "it runs inside of a function that torch.func transforms (vmap, grad, ...)"
    if path in seen.threaded:
        return "it runs in a thread of its own"
    if not seen.sizes[path]:
        return "its input is not a batch of maps, or of tokens"
    if not any(size.images for size in seen.sizes[path]):
        return "it gets nothing to read from the first image"
    if isinstance(layer, nn.Linear) and seen.positions[path] == 1:
        return "it works on one vector for each sample"
    kernel = unit_of(layer)
    if kernel.patch > MOST_READ:
        return f"it reads {kernel.patch} numbers at each position: too many to fit"
    if not kept_in.is_floating_point:
        return f"its weight is {kept_in}"
    if twin is None and computes_weight(layer):
        return f"{kind} computes its weight in a way that is not understood"
    if twin is not None and hides_weights(layer, twin.weight):
        return "a mask hides some of its weights: what would replace it reads what they must not"
    if twin is None and (layer._forward_pre_hooks or layer._forward_hooks):
        return "hooks run with it"
    own = [*layer.modules()]
    for other, module in owners.get(id(layer.weight), ()):
        if module not in own:
            return f"shares its weight with {other}"
    if path in seen.read:
        return "its weight is read directly by forward"
    if path in seen.changed:
        return "forward changes its weight or settings"
    if kernel.in_channels == 1 and getattr(layer, "groups", 1) > 1:
        return "already depthwise"
    least = min(
        sum(each.weights for each in form.layers(kernel, (1, 1) if name == "tucker" else 1))
        for name, form in FORMS.items()
        if form.applies(kernel)
    )
    return None if least < kernel.out_channels * kernel.patch else "too small: no form is cheaper"


@dataclass(frozen=True)
class _Alike:
    """Layers that are baked alike: those without values, where all settings are the same."""

    settings: str
    size: Size
    dtype: torch.dtype | None
    path: str = field(compare=False)

    @classmethod
    def of(cls, layer: nn.Module, path: str, size: Size, dtype: torch.dtype | None) -> _Alike:
        if not layer.weight.is_meta:
            return cls(path, size, dtype, path)
        shapes = [(name, tensor.shape) for name, tensor in layer.state_dict().items()]
        kinds = [(type(module), attributes_of(module)) for module in layer.modules()]
        return cls(f"{shapes} {kinds}", size, dtype, path)


def _owners(model: nn.Module) -> dict[int, list[tuple[str, nn.Module]]]:
    """By id, the modules that a parameter is a parameter of, with their paths."""
    found: dict[int, list[tuple[str, nn.Module]]] = {}
    for path, module in model.named_modules():
        for parameter in module._parameters.values():
            found.setdefault(id(parameter), []).append((path, module))
    return found
