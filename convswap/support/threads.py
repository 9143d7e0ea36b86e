"""How many of PyTorch's threads work on one thing, and on how many things at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

AT_ONCE = 2  # things at most: each takes memory


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """PyTorch uses `count` threads inside."""
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def at_once() -> int:
    """How many things are done at once."""
    return min(torch.get_num_threads(), AT_ONCE)


@contextmanager
def side_by_side() -> Iterator[Callable]:
    """Yields a `map` that does `at_once()` things at once, each with its part of the threads.

    Matrix factorisations hardly gain from a second thread, and lose much where it has to wait for
    its turn (measured on two processors that others use, too: eight times as long).
    """
    threads, count = torch.get_num_threads(), at_once()
    if count == 1:
        yield map
        return
    part = threads // count
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(part,)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(threads)  # subtle: threads that start later would take theirs
