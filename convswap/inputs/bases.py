"""The architectures that come by name: timm's and torchvision's, and what may be asked of them
on the word of a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as registration
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..errors import ModelError
from ..network.copies import first_line, meta_copy
from ..network.state import attributes_of
from ..record import Base
from ..support.plain import numbers_in
from ..support.quiet import quiet
from . import of_torchvision
from .hub import hub
from .names import is_library

_NAME = re.compile(r"[\w.\-]{1,200}")
_REFUSED = {"checkpoint_path", "cache_dir", "scriptable", "exportable", "no_jit", "progress"}
_FOLDS = ("fuse", "reparameterize", "switch_to_deploy")  # methods that timm calls to fold
_LARGEST = 1 << 13  # of an argument
_CLASSES = 1 << 20  # they are the size of one layer alone
_SPARE_BYTES = 32 << 20  # what a dense network may have beside 16 times the weights file


def build_library(
    name: str, kwargs: Mapping[str, Any], *, weights: str | None = None, fetch: bool = False
) -> nn.Module:
    """A network by its name.

    Args:
        weights: as in `Base`, of those that it is built for.
        fetch: it gets them, if they are `pretrained`.

    Raises:
        ModelError: the name is unknown, an argument does not fit, or weights cannot be fetched.
    """
    import timm
    import torchvision

    source, _, rest = name.partition(":")
    fetch = fetch and weights == "pretrained"
    try:
        with quiet():  # they warn of what future versions will do
            if source == "torchvision":
                return of_torchvision.build(rest, kwargs, weights, fetch=fetch)
            with hub() if fetch else nullcontext():
                return timm.create_model(rest, pretrained=fetch, **kwargs)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        library = timm if source == "timm" else torchvision.models
        if rest.partition(".")[0] not in library.list_models() and ":" not in rest:
            raise ModelError(f"unknown model {name}", do=_nearest(rest, library)) from None
        if fetch:
            raise ModelError(
                f"cannot fetch the pretrained weights of {name}: {lines[0]}",
                do="give a file with --weights (in Python weights=), or, for a trial, "
                "--random-weights (random_weights=True)",
            ) from None
        raise ModelError(f"cannot build {name}: {lines[0]}") from error


def fold_branches_(model: nn.Module) -> nn.Module:
    """Fold, in place, the branches that some networks of timm are trained with into single
    layers: the same function with less work (RepVGG: Ding et al. 2021).

    Raises:
        ModelError: they cannot be folded.
    """
    from timm.utils import reparameterize_model

    try:
        return reparameterize_model(model, inplace=True)
    except Exception as error:
        raise ModelError(f"its branches cannot be folded: {first_line(error)}") from error


def has_branches(model: nn.Module) -> bool:
    """Whether `fold_branches_` would change a network."""
    if not any(hasattr(m, how) for m in model.modules() for how in _FOLDS):
        return False
    with torch.device("meta"):
        folded = fold_branches_(meta_copy(model))
    return len([*folded.modules()]) < len([*model.modules()])


def build_base(base: Base, tensors: int) -> nn.Module:
    """The architecture an artifact starts from, its parameters on the meta device: nothing is
    allocated before all shapes are known to fit.

    Args:
        tensors: how many the artifact holds; an architecture that makes very many more is
            given up.

    Raises:
        ModelError: the name or an argument is not one that can be trusted or built.
    """
    check_base(base)
    bounds = _Bounds(tensors)
    try:
        with torch.device("meta"):
            return _built(base, bounds)
    except ModelError:  # torchvision's regnets compute with values as they are built
        with _parameters_on_meta():
            return _built(base, bounds)


def lacks_values(base: Base, skeleton: nn.Module, held: Mapping[str, int]) -> bool:
    """Whether a network needs values that its weights file does not hold, such as tables of
    positions.

    Args:
        skeleton: what `build_base` gives.
        held: the tensors in the file, and their bytes.

    Raises:
        ModelError: the architecture is out of all proportion to the file.
    """
    attributes = [leaf for m in skeleton.modules() for leaf in tree_leaves(attributes_of(m))]
    computed = [b for name, b in skeleton.named_buffers() if name not in held] + attributes
    if not any(isinstance(tensor, torch.Tensor) and tensor.is_meta for tensor in computed):
        return False
    size = sum(t.nbytes for t in (*skeleton.parameters(), *skeleton.buffers()))
    if size > 16 * sum(held.values()) + _SPARE_BYTES:
        raise ModelError(f"{base.name} with {base.kwargs} is far larger than its weights")
    return True


def build_with_values(base: Base, tensors: int) -> nn.Module:
    """The same architecture as `build_base` gives, with values."""
    with torch.random.fork_rng(devices=[]):
        return _built(base, _Bounds(tensors))


def _built(base: Base, bounds: _Bounds) -> nn.Module:
    with bounds:
        model = build_library(base.name, base.kwargs, weights=base.weights)
    return fold_branches_(model.eval()) if base.folded else model


def check_base(base: Base) -> None:
    """Raise `ModelError` unless a base may be built."""
    if not is_library(base.name) or not _NAME.fullmatch(base.name.partition(":")[2]):
        raise ModelError(f"not a timm or torchvision name: {base.name!r}")
    refused = ModelError(f"refused arguments for {base.name}: {base.kwargs}")
    if any(
        key in _REFUSED or "pretrained" in key or "weights" in key or not _NAME.fullmatch(key)
        for key in base.kwargs
    ):
        raise refused
    for key, value in base.kwargs.items():
        try:
            numbers = numbers_in(value)
        except ValueError:
            raise refused from None
        most = _CLASSES if key == "num_classes" else _LARGEST
        if not all(abs(number) <= most for number in numbers):  # NaN is refused, too
            raise refused


class _Bounds(TorchFunctionMode):
    """Fail when a network that is being built registers very many modules and tensors, or calls
    torch very often: it would not end."""

    def __init__(self, tensors: int):
        super().__init__()
        self.left = min(20 * tensors + 1000, 15_000)  # timm's largest: 4,234
        self.calls_left = min(60 * tensors + 10_000, 50_000)  # timm's largest: 33,008
        self._hooks = ExitStack()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.calls_left -= 1
        self._check(self.calls_left)
        return function(*args, **(kwargs or {}))

    def __enter__(self) -> _Bounds:
        for kind in ("parameter", "buffer", "module"):
            register = getattr(registration, f"register_module_{kind}_registration_hook")
            self._hooks.callback(register(self._registered).remove)
        return super().__enter__()

    def __exit__(self, *failure: object) -> None:
        self._hooks.close()
        super().__exit__(*failure)

    def _registered(self, *_: object) -> None:
        self.left -= 1
        self._check(self.left)

    @staticmethod
    def _check(left: int) -> None:
        if left < 0:
            raise ModelError("it has far more layers than there are weights")


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters lose their storage as a network that is being built registers them."""

    def emptied(module: nn.Module, name: str, parameter: nn.Parameter | None) -> object:
        if parameter is None or parameter.is_meta:
            return None
        return nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)

    handle = registration.register_module_parameter_registration_hook(emptied)
    try:
        yield
    finally:
        handle.remove()


def _nearest(name: str, library: ModuleType) -> str:
    import difflib

    if close := difflib.get_close_matches(name, library.list_models(), n=3):
        return f"did you mean {', '.join(close)}?"
    return f"see `{library.__name__}.list_models()`"
