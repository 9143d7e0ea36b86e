"""Networks side by side: what each costs, and the time and memory it takes on a target."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ..network.cost import count
from ..runtimes import Target
from ..support.progress import Progress, silent
from ..timing import measure
from ..timing.peak_memory import peak_bytes
from ..timing.turns import input_for


def compare(
    networks: Mapping[str, nn.Module],
    input_size: tuple[int, int, int],
    target: Target,
    *,
    batch: int = 1,
    seconds: float = 5.0,
    progress: Progress = silent,
) -> dict[str, dict[str, object]]:
    """Cost, time and memory of each network; arguments as for `measure`.

    Returns:
        For every name: `macs`, `params`, `bytes`; `ms` of a batch, its `p90`, `p99`, `spread` and
        `layout`, `images_per_second`; `peak_bytes`, None where it cannot be told.
    """
    times = measure(
        networks, input_size, batch=batch, seconds=seconds, target=target, progress=progress
    )
    images = input_for(networks, input_size, batch)
    return {
        name: vars(count(network, input_size))
        | {
            "ms": times[name].ms,
            "p90": times[name].p90,
            "p99": times[name].p99,
            "spread": times[name].spread,
            "layout": times[name].layout,
            "images_per_second": 1e3 * batch / times[name].ms,
            "peak_bytes": peak_bytes(target, network, images, times[name].layout),
        }
        for name, network in networks.items()
    }
