"""How fast networks are, measured fairly: interleaved in one process, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

import torch
from torch import nn


@torch.inference_mode()
def measure(
    models: Mapping[str, nn.Module],
    input_size: Sequence[int],
    *,
    batch: int = 1,
    seconds: float = 2.0,
) -> dict[str, float]:
    """Median milliseconds of one forward pass of each network, taking turns.

    Args:
        input_size: `(channels, height, width)`.
        seconds: how long to measure each network, after a warm-up of three passes.
    """
    device = next(next(iter(models.values())).parameters()).device
    x = torch.zeros(batch, *input_size, device=device)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def once(model: nn.Module) -> float:
        wait()
        start = time.perf_counter()
        model(x)
        wait()
        return time.perf_counter() - start

    for model in models.values():
        model.eval()
        for _ in range(3):
            once(model)
    taken: dict[str, list[float]] = {name: [] for name in models}
    end = time.perf_counter() + seconds * len(models)
    while time.perf_counter() < end or len(next(iter(taken.values()))) < 5:
        for name, model in models.items():
            taken[name].append(once(model))
    return {name: 1e3 * statistics.median(times) for name, times in taken.items()}
