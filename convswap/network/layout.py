"""How maps and kernels lie in memory: row by row of one channel, or with channels last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from .calls import Batch

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by rank; others have one layout


def lay_out_(network: nn.Module, last: bool) -> None:
    """Lay the kernels of a network out with channels last, or as is usual; its maps follow."""
    for parameter in network.parameters():
        layout = LAST.get(parameter.dim()) if last else torch.contiguous_format
        if layout is not None:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def laid_out(batch: Batch) -> Batch:
    """A batch whose images lie in memory with channels last."""
    return batch.mapped(
        lambda x: x.contiguous(memory_format=LAST.get(x.dim(), torch.contiguous_format))
    )


@torch.no_grad()
def run_with_channels_last(networks: Iterable[nn.Module], batch: Batch) -> bool:
    """Whether networks run a batch so, when laid out so; they stay as they were.

    A network that looks at its maps by `view` does not, but for what is the same in both layouts;
    nor one that checks its values, while kernels are still to be written.
    """
    for network in networks:
        if any(map(_is_unsafe, network.modules())):
            return False
        try:
            with _channels_last([network]):
                laid_out(batch).run(network)
        except Exception:  # it runs the user's code
            return False
    return True


def _is_unsafe(layer: nn.Module) -> bool:
    """Whether a layer is a 1x1 convolution that skips positions and reads few channels: with
    channels last, PyTorch's gradient of its weight writes past the end of memory on processors
    (2.14; found with 2 to 4 channels, on maps of even size)."""
    if not isinstance(layer, nn.Conv2d) or layer.weight.is_cuda or layer.in_channels >= 8:
        return False
    return layer.weight.shape[2:].numel() == 1 and layer.stride not in (1, (1, 1))


@contextmanager
def in_fastest_layout(
    networks: Sequence[nn.Module], batches: Sequence[Batch]
) -> Iterator[Sequence[Batch]]:
    """The batches, laid out with channels last, as the networks are inside, if they run so: on
    processors that takes two thirds of the time."""
    if not run_with_channels_last(networks, batches[0].take(slice(0, 2))):
        yield batches
        return
    with _channels_last(networks):
        yield [laid_out(batch) for batch in batches]


@contextmanager
def _channels_last(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Kernels lie with channels last inside; afterwards their values are where they were."""
    places = {p: p.data for network in networks for p in network.parameters()}
    for network in networks:
        lay_out_(network, last=True)
    try:
        yield
    finally:
        for network in networks:
            lay_out_(network, last=False)
            for parameter in network.parameters():
                place = places.get(parameter)
                if place is not None and place.shape == parameter.shape:
                    place.copy_(parameter.data)
                    parameter.data = place
