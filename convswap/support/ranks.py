"""Several processes that do one job, each on its part of the samples: torch's own `torchrun` starts
them; `DistributedDataParallel` keeps what they train equal, sums over all what they look at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import ConvswapError

Value = TypeVar("Value")
_sharing = [False]  # whether processes look at samples together


@contextmanager
def joined(device: str, sharing: bool = False) -> Iterator[str]:
    """The processes that `torchrun` started know each other inside; yields this one's device.

    Args:
        sharing: whether what is found out about a network inside is that of the samples of all.
            Otherwise each looks at its own, and needs not do so when the others do.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        _sharing[0] = sharing
        yield device
    finally:
        _sharing[0] = False
        dist.destroy_process_group()


def place() -> tuple[int, int]:
    """Which of the processes this is, and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def several() -> bool:
    """Whether there are others."""
    return place()[1] > 1


def leads() -> bool:
    """Whether this process writes and speaks for all."""
    return place()[0] == 0


def together(task: nn.Module) -> nn.Module:
    """A module whose gradients are averaged over all processes."""
    if not several():
        return task
    return DistributedDataParallel(task, broadcast_buffers=False, find_unused_parameters=True)


def alone(task: nn.Module) -> nn.Module:
    """What was given to `together`."""
    return task.module if isinstance(task, DistributedDataParallel) else task


def share() -> tuple[int, int]:
    """Which part of the samples that are looked at this process has, and of how many."""
    return place() if _sharing[0] else (0, 1)


def sum_(*tensors: Tensor) -> None:
    """Add up tensors over all processes that share samples, in place."""
    if share()[1] > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def led_(*tensors: Tensor) -> None:
    """Give all processes that share samples the leading one's values, in place."""
    if share()[1] > 1:
        for tensor in tensors:
            values = tensor.contiguous()
            dist.broadcast(values, 0)
            tensor.copy_(values)


def led(find: Callable[[], Value]) -> Value:
    """What the leading process finds, in all that share samples: they wait."""
    part, parts = share()
    found = [find() if part == 0 else None]
    if parts > 1:
        dist.broadcast_object_list(found)
    return found[0]


def gathered(value: Value) -> list[Value]:
    """What every process that shares samples has for a value."""
    found = [value] * share()[1]
    if len(found) > 1:
        dist.all_gather_object(found, value)
    return found


def agreed(value: Value) -> Value:
    """What the leading process has for a value, in every process."""
    if not several():
        return value
    shared = [value]
    dist.broadcast_object_list(shared)
    return shared[0]


@contextmanager
def company(do: str) -> Iterator[None]:
    """A process that is lost is an error of one line in all others, with what to do then."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise ConvswapError(
            f"lost another process of this run: {str(error).splitlines()[0]}",
            do=do,
        ) from error
