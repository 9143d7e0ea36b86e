"""How much memory a forward pass takes."""

from __future__ import annotations

import gc

import torch
from torch import Tensor, nn

from .targets import Target


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
