"""How a batch is passed to a network: the one place that knows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ..errors import DataError
from ..plans import Input
from .match import Match, Pick, find_match

LABELS = ("label", "labels", "target", "targets", "y")  # keys that are not passed on
IMAGES = ("image", "images", "pixel_values", "input", "inputs", "x", "img", "data")

Call = Callable[[nn.Module, Any], object]
"""Runs a network on a batch as the user's loader gives it."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs of one call of a network.

    Attributes:
        args, kwargs: what `forward` is called with.
        labels: `[n]` class numbers that came with the inputs, if any did.
        call: runs the network on `args[0]` in the user's own way.
        match: what is compared of what the network puts out.
    """

    args: tuple
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    labels: Tensor | None = None
    call: Call | None = None
    match: Match = field(default_factory=Match)

    def run(self, network: nn.Module) -> Any:
        """What is compared of the network's output."""
        return self.match.of(network, lambda: self.forward(network))

    def forward(self, network: nn.Module) -> Any:
        """The network's output on a copy of the inputs, which it may change."""
        args, kwargs = self._map(Tensor.clone)
        return self.call(network, *args) if self.call else network(*args, **kwargs)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors passed, in order."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    def __len__(self) -> int:
        """How many images (samples) it holds."""
        if _is_list_of_images(self.args[:1]):
            return len(self.args[0])
        return next((len(tensor) for tensor in self.tensors if tensor.dim()), 1)

    def take(self, some: slice) -> Batch:
        """A batch of some of the samples."""
        size = len(self)
        labels = self.labels if self.labels is None else self.labels[some]
        if _is_list_of_images(self.args[:1]):
            return replace(self, args=(self.args[0][some], *self.args[1:]), labels=labels)
        taken = self.mapped(lambda t: t[some] if t.dim() and len(t) == size else t)
        return replace(taken, labels=labels)

    def split(self, size: int) -> list[Batch]:
        """Batches of at most `size` samples."""
        return [self.take(slice(i, i + size)) for i in range(0, len(self), size)]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Batch:
        """On a device; floating-point inputs in a dtype, if one is given."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        labels = self.labels if self.labels is None else self.labels.to(device)
        return replace(self.mapped(moved), labels=labels)

    def noise(self) -> Batch:
        """Noise in place of floating-point inputs."""

        def replaced(tensor: Tensor) -> Tensor:
            return noise(tensor.shape).to(tensor) if tensor.is_floating_point() else tensor

        return self.mapped(replaced)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What is passed, as plain data."""
        named = [*enumerate(self.args), *self.kwargs.items()]
        return tuple(
            Input(name=str(name), shape=tuple(value.shape), dtype=str(value.dtype)[6:])
            for name, value in named
            if isinstance(value, Tensor)
        )

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor that is passed changed."""
        args, kwargs = self._map(change)
        return replace(self, args=args, kwargs=kwargs)

    def _map(self, change: Callable[[Tensor], Tensor]) -> tuple[tuple, dict[str, Any]]:
        def each(leaf: object) -> object:
            return change(leaf) if isinstance(leaf, Tensor) else leaf

        return tree_map(each, self.args), tree_map(each, dict(self.kwargs))


def read_batches(
    model: nn.Module, batches: object, call: Call | None = None, pick: Pick | None = None
) -> list[Batch]:
    """Batches as users have them, as a network takes them: on its device and in its type.

    A batch is a tensor, a tuple or list of inputs with labels after them, a dict, or a list of
    images; how much of it is input follows from the arguments that `forward` requires.

    Args:
        batches: an iterable of batches, or one tensor of all samples.
        call: passes a batch to the network where guessing is wrong.
        pick: takes what is compared out of an output; default: all of it, or what the network's
            parts put out, where the whole varies.

    Raises:
        DataError: a batch holds no tensor, or values that are not finite.
    """
    if isinstance(batches, Tensor):
        batches = batches.split(64)
    elif isinstance(batches, (Batch, Mapping)):
        batches = [batches]
    found = [read_batch(model, batch, call) for batch in batches]
    found = [batch for batch in found if len(batch)]
    if not found:
        return []
    match = Match(pick) if pick else find_match(model, found[0])
    return [replace(batch, match=match) for batch in found]


def read_batch(model: nn.Module, batch: object, call: Call | None = None) -> Batch:
    """One batch; see `read_batches`."""
    if isinstance(batch, Batch):
        found = batch
    elif call is not None:
        found = Batch((batch,), call=call)
    else:
        found = _guess(model, batch)
    if not found.tensors:
        raise DataError(
            f"no tensor in a batch of type {type(batch).__name__}",
            do="give tensors, tuples or dicts of them, or say call=lambda model, batch: ...",
        )
    if not all(t.isfinite().all() for t in found.tensors if t.is_floating_point()):
        raise DataError("a batch holds NaN or infinite values", do="leave those samples out")
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    return found if first is None else found.to(first.device, first.dtype)


def example_of(model: nn.Module, input_size: Sequence[int] | object) -> Batch:
    """One sample to look at a network with: noise of a size `(channels, height, width)`, or the
    first of a batch."""
    if isinstance(input_size, Sequence) and all(isinstance(n, int) for n in input_size):
        return read_batch(model, noise((1, *input_size)))
    return read_batch(model, input_size).take(slice(0, 1))


def noise(shape: Sequence[int]) -> Tensor:
    """Standard normal values, the same every time."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))


def stand_in(model: nn.Module, inputs: Sequence[Input]) -> Batch:
    """Noise, or zeros where numbers are whole, in the shapes of inputs that were seen."""
    values = {}
    for seen in inputs:
        dtype = getattr(torch, seen.dtype)
        real = dtype.is_floating_point
        values[seen.name] = noise(seen.shape) if real else torch.zeros(seen.shape, dtype=dtype)
    args = tuple(value for name, value in values.items() if name.isdigit())
    kwargs = {name: value for name, value in values.items() if not name.isdigit()}
    return read_batch(model, Batch(args, kwargs))


def _guess(model: nn.Module, batch: object) -> Batch:
    if isinstance(batch, Tensor) or (_takes_a_list(model) and _is_list_of_images([batch])):
        return Batch((batch,))
    if isinstance(batch, Mapping):
        return _from_mapping(model, batch)
    if not isinstance(batch, (tuple, list)) or not batch:
        return Batch((batch,))
    if len(_required(model)) <= 1 and _is_list_of_images(batch):
        return Batch((list(batch[0]),), labels=_labels(batch[1:]))
    if isinstance(batch[0], (Mapping, tuple, list)):
        return replace(_guess(model, batch[0]), labels=_labels(batch[1:]))
    wanted = max(1, len(_required(model)))
    return Batch(tuple(batch[:wanted]), labels=_labels(batch[wanted:]))


def _from_mapping(model: nn.Module, batch: Mapping[str, Any]) -> Batch:
    parameters, required = _parameters(model), _required(model)
    labels = _labels([batch[key] for key in LABELS if key in batch and key not in required])
    known = {
        key: value
        for key, value in batch.items()
        if key in parameters and (key in required or key not in LABELS)
    }
    if known and all(name in known for name in required):
        return Batch((), known, labels)
    inputs = {k: v for k, v in batch.items() if isinstance(v, Tensor) and k not in LABELS}
    key = next((key for key in IMAGES if key in inputs), next(iter(inputs), None))
    return Batch((inputs.get(key),), labels=labels)


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(model.forward).parameters
    except (TypeError, ValueError):  # of compiled code
        return {}


def _required(model: nn.Module) -> list[str]:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [
        name
        for name, parameter in _parameters(model).items()
        if parameter.kind in (*positional, inspect.Parameter.KEYWORD_ONLY)
        and parameter.default is inspect.Parameter.empty
    ]


def _takes_a_list(model: nn.Module) -> bool:
    """Whether `forward` says that its input is a list, or the network is one of torchvision's
    detectors, not all of which say it."""
    if isinstance(getattr(model, "transform", None), GeneralizedRCNNTransform):
        return True
    first = next(iter(_parameters(model).values()), None)
    return first is not None and "list[" in str(first.annotation).lower()


def _labels(rest: Iterable[object]) -> Tensor | None:
    """The first of what is left of a batch that can be class numbers."""
    for value in rest:
        if isinstance(value, Tensor) and value.dim() == 1 and not value.is_floating_point():
            return value
    return None


def _is_list_of_images(values: Sequence[object]) -> bool:
    """Whether the first value is a list of images `[channels, height, width]`, as detectors take
    them."""
    first = values[0] if values else None
    return (
        isinstance(first, (tuple, list))
        and len(first) > 0
        and all(isinstance(image, Tensor) and image.dim() == 3 for image in first)
    )
