"""Random states decided by a seed, and given back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of PyTorch (on every device) and of Python decided by a seed inside, and
    afterwards as if none had been drawn."""
    state = random.getstate()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        _seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(state)


def _seed(seed: int) -> None:
    """As `torch.manual_seed`, which also formats a trace of its callers for each kind of device
    that there is none of: a millisecond every time."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    if torch.mps.is_available():
        torch.mps.manual_seed(seed)


class Draws:
    """Random numbers of their own, for code that takes turns with other code: whatever that draws
    in between, these go on where they were.

    Args:
        seed: decides them.
    """

    def __init__(self, seed: int):
        with seeded(seed):
            self._state = _taken()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draw them inside."""
        before = _taken()
        _set(self._state)
        try:
            yield
        finally:
            self._state = _taken()
            _set(before)


def _taken() -> tuple[object, Tensor, list[Tensor]]:
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return random.getstate(), torch.get_rng_state(), devices


def _set(state: tuple[object, Tensor, list[Tensor]]) -> None:
    random.setstate(state[0])
    torch.set_rng_state(state[1])
    if state[2]:
        torch.cuda.set_rng_state_all(state[2])
