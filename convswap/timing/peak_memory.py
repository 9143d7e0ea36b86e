"""How much memory running a network takes, measured."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from ..network.copies import deep_copy
from ..runtimes import Target


def peak_bytes(target: Target, module: nn.Module, x: Tensor, layout: str = "") -> int | None:
    """Most memory that running a module takes: weights, input, and all there is in between.

    On a GPU as PyTorch counts it. On the CPU it is the growth of the process, which the system
    counts in pages, and allocators keep some: figures of a few MB say little.

    Args:
        layout: one of the target's memory layouts for this module; default: its first.

    Returns:
        Bytes; None on the CPU of systems other than Linux.
    """
    device = torch.device(target.device)
    meter = _Allocated(device) if device.type == "cuda" else _Resident()
    if not meter.works():
        return None
    target.variants(module, x)  # what a target does only once is not counted
    before = meter.now()
    weights = deep_copy(module)  # subtle: a target may share those that fit already
    variants = target.variants(weights, x)
    run = variants[layout] if layout else next(iter(variants.values()))
    del weights, variants
    meter.start()
    run()
    return max(meter.peak() - before, 0)


class _Allocated:
    """Memory that PyTorch has given out on a GPU."""

    def __init__(self, device: torch.device):
        self._device = device

    def works(self) -> bool:
        return True

    def now(self) -> int:
        gc.collect()
        return torch.cuda.memory_allocated(self._device)

    def start(self) -> None:
        gc.collect()
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self._device)


class _Resident:
    """Memory of this process that is in RAM, on Linux (see proc(5))."""

    def works(self) -> bool:
        return sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK)

    def now(self) -> int:
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)  # glibc's, not musl's
        trim(0)  # what was freed would be used again, and not be seen
        return self._field("VmRSS")

    def start(self) -> None:
        self.now()
        # what is resident now becomes the peak
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")

    def peak(self) -> int:
        return self._field("VmHWM")

    def _field(self, name: str) -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(dict(line.split(":", 1) for line in lines)[name].split()[0]) * 1024
