"""Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def computed_again(network: nn.Module, paths: Iterable[str]) -> Iterator[None]:
    """What these modules hold of a pass inside, they compute again on the way back."""
    with ExitStack() as stack:
        for module in map(network.get_submodule, paths):
            stack.callback(_set_forward, module, vars(module).get("forward"))
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)
        yield


def _set_forward(module: nn.Module, own: Callable | None) -> None:
    del module.forward
    if own:
        module.forward = own
