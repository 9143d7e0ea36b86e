"""How much memory forward passes take."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .graph import dry_copy
from .targets import Target


def in_flight_bytes(model: nn.Module, input_size: Sequence[int]) -> int:
    """The most that one image of `(channels, height, width)` holds during a forward pass.

    While layers are fitted, every calibration image is in flight, in the original and in the
    converted network: together they hold at most twice this for each.
    """
    duplicate, image = dry_copy(model, input_size)
    with _Live() as live:
        duplicate(image.clone())
    return live.peak


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(dict(line.split(":") for line in lines)["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


class _Live(TorchDispatchMode):
    """Adds up the storages that are alive, of all that operators put out."""

    def __init__(self):
        super().__init__()
        self.peak = 0
        self._sizes: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self._sizes[StorageWeakRef(storage)] = storage.nbytes()
        self._sizes = {ref: size for ref, size in self._sizes.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self._sizes.values()))
        return output


def peak_bytes(target: Target, module: nn.Module, x: Tensor) -> int | None:
    """Largest number of bytes on the GPU during one forward pass, the copies the target makes
    of weights and input included, what was there before not.

    Returns:
        None on the CPU, where a process cannot tell one network's memory from all the rest.
    """
    device = torch.device(target.device)
    if device.type != "cuda":
        return None
    gc.collect()
    before = torch.cuda.memory_allocated(device)
    run = next(iter(target.variants(module, x).values()))
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before
