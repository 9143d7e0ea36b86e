"""Several processes that train one network, each on its part of every batch: torch's own
`torchrun` starts them, `DistributedDataParallel` keeps them equal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import ConvswapError

Value = TypeVar("Value")


@contextmanager
def joined(device: str) -> Iterator[str]:
    """The processes that `torchrun` started know each other inside; yields this one's device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
    finally:
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


def agreed(value: Value) -> Value:
    """What the leading process has for a value, in every process."""
    if not several():
        return value
    shared = [value]
    dist.broadcast_object_list(shared)
    return shared[0]


@contextmanager
def company() -> Iterator[None]:
    """A process that is lost is an error of one line in all others."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise ConvswapError(
            f"lost another process of this run: {str(error).splitlines()[0]}",
            do="the same command goes on from the checkpoint",
        ) from error
