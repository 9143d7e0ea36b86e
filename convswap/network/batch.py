"""A batch as it is passed to a network, whatever it is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..plans import Input
from .between import as_before
from .match import Match
from .samples import Layout
from .thread_state import on_callers_device
from .trees import map_tensors, tensors_in

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
        layout: where the samples lie in what is passed, where not all are rows.
        kept: paths of modules that keep something from one call to the next, which they are not
            to do.
        instead: what to run a network on that cannot run on this.
        unused: names of what came with the inputs and could have been passed, but was not.
    """

    args: tuple
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    labels: Tensor | None = None
    call: Call | None = None
    match: Match = field(default_factory=Match)
    layout: Layout = field(default_factory=Layout)
    kept: tuple[str, ...] = ()
    instead: Batch | None = None
    unused: tuple[str, ...] = ()

    def run(self, network: nn.Module) -> Any:
        """What is compared of the network's output."""
        return self.match.of(network, lambda: self.forward(network))

    def forward(self, network: nn.Module) -> Any:
        """The network's output on a copy of the inputs, which it may change."""
        args, kwargs = self._map(Tensor.clone)
        run = partial(self.call, network) if self.call else network
        with on_callers_device(self.tensors):
            output = as_before(network, self.kept, lambda: run(*args, **kwargs))
        if isinstance(output, Generator):
            raise ModelError(
                "it puts out a generator, which has computed nothing yet",
                do="say call=lambda model, batch: [*model(batch)]",
            )
        return output

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors passed, in order."""
        return tensors_in((self.args, self.kwargs))

    def __len__(self) -> int:
        """How many images (samples) it holds: as many as most tensors have rows, of several
        numbers that of the tensor with the most axes, for others may be there once for all."""
        told = self.layout.count((self.args, self.kwargs))
        if told is not None:
            return told
        rows = [(len(tensor), tensor.dim()) for tensor in self.tensors if tensor.dim()]
        rows = [row for row in rows if row[0] != 1] or rows
        counts = Counter(size for size, _ in rows)
        return max(rows, key=lambda row: (counts[row[0]], row[1]), default=(1, 0))[0]

    @property
    def in_rows(self) -> bool:
        """Whether every tensor has a row for each sample, and no other way of telling is needed."""
        if self.layout.lengths or any(each.layout != torch.strided for each in self.tensors):
            return False
        return {len(tensor) for tensor in self.tensors if tensor.dim()} <= {len(self)}

    def take(self, some: slice | list[int]) -> Batch:
        """A batch of some of the samples."""
        args, kwargs = self.layout.taken((self.args, dict(self.kwargs)), some, len(self))
        labels = self.labels if self.labels is None or self.layout.whole else self.labels[some]
        return replace(self, args=args, kwargs=kwargs, labels=labels)

    def like(self, other: Batch) -> Batch:
        """Passed, divided and compared like another of its kind."""
        told = {"whole": other.layout.whole, "trims": other.layout.trims}
        return replace(
            self, match=other.match, kept=other.kept, layout=replace(self.layout, **told)
        )

    def whole(self) -> Batch:
        """All of it as one sample."""
        return replace(self, layout=replace(self.layout, whole=True))

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
        return map_tensors((self.args, dict(self.kwargs)), change)


def noise(shape: Sequence[int]) -> Tensor:
    """Standard normal values, the same every time."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))
