"""convswap bench: time networks side by side."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .. import report
from ..cost import count
from ..errors import ConvswapError
from ..record import record_of
from ..timing import measure
from . import options as o

EXAMPLE = "convswap bench r18-half --threads 1"


def bench(
    artifact_dir: o.Artifact,
    against: Annotated[
        str | None, typer.Option("--against", help="another MODEL; default: the original network")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="images per pass", min=1)] = 1,
    seconds: Annotated[float, typer.Option("--seconds", help="to measure each network")] = 5.0,
    architecture: o.Architecture = None,
    teacher_weights: Annotated[
        str | None,
        typer.Option("--teacher-weights", help="of the original network; default: as converted"),
    ] = None,
    model_arg: o.ModelArg = None,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    as_json: o.Json = False,
) -> None:
    """Time a converted network against the original, taking turns in one process (eager)."""
    network = o.open_artifact(artifact_dir, architecture, model_arg, device, threads)
    preprocess = record_of(network).preprocess
    if preprocess is None:
        raise ConvswapError(f"{artifact_dir} does not say its input size")
    if against:
        other = o.open_network(
            against, architecture=architecture, model_arg=model_arg, device=device
        )
    else:
        other = o.open_original(network, architecture, teacher_weights, model_arg, device)
    networks = {f"against {against}" if against else "dense": other, artifact_dir: network}
    taken = measure(networks, preprocess.input_size, batch=batch, seconds=seconds)
    dense_ms, ms = taken.values()
    if as_json:
        print(json.dumps({"ms_dense": dense_ms, "ms": ms, "latency_ratio": ms / dense_ms,
                          "target": "eager", "batch": batch}))  # fmt: skip
        return
    rows = {
        name: vars(count(net, preprocess.input_size)) | {"ms": taken[name] / batch}
        for name, net in networks.items()
    }
    report.out.print(report.comparison_table(rows))
    report.out.print(f"{ms / dense_ms:.3f} of the time, {dense_ms / ms:.2f}x the speed")
