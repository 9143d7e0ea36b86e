"""convswap bench: time networks side by side, on whatever will run them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import torch
import typer
from torch import nn

from ..errors import ConvswapError
from ..network.cost import count
from ..record import record_of
from ..runtimes import Target, open_target
from ..support.files import check_new
from ..support.progress import Progress
from ..timing import LatencyTable, measure
from ..timing.layer_times import LayerTime, check_picture, draw, layer_times
from ..timing.peak_memory import peak_bytes
from . import opening, report
from . import options as o

EXAMPLE = "convswap bench r18-half --target onnxruntime --threads 1 --layers"


def bench(
    artifact_dir: o.Artifact,
    against: Annotated[
        str | None, typer.Option("--against", help="another MODEL; default: the original network")
    ] = None,
    target: o.TargetName = "eager",
    batch: o.Batch = 1,
    dtype: o.Dtype = "float32",
    layers: Annotated[
        bool, typer.Option("--layers", help="time every converted layer by itself, too")
    ] = False,
    picture: Annotated[
        str | None, typer.Option("--picture", metavar="FILE.png", help="draw the times")
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0, help="to measure each network, at most")
    ] = 5.0,
    architecture: o.Architecture = None,
    teacher_weights: Annotated[
        str | None,
        typer.Option("--teacher-weights", help="of the original network; default: as converted"),
    ] = None,
    model_arg: o.ModelArg = None,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    force: o.Force = False,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Time a converted network against the original, taking turns in one process."""
    if layers and against:
        raise ConvswapError("--layers compares with the original network", do="omit --against")
    if picture:
        check_new(picture, force)
        check_picture(picture)
    runtime = open_target(target, threads=threads, device=device, dtype=dtype)
    network = opening.open_artifact(artifact_dir, architecture, model_arg)
    preprocess = opening.settle_preprocess(network)
    if against:
        other = opening.open_network(against, architecture=architecture, model_arg=model_arg)
    else:
        other = opening.open_original(network, architecture, teacher_weights, model_arg, "cpu")
    name = f"against {against}" if against else "dense"
    networks = {name: other, artifact_dir if artifact_dir != name else f"./{name}": network}
    with report.progress(quiet) as progress:
        rows = _rows(networks, preprocess.input_size, runtime, batch, seconds, progress)
    found: list[LayerTime] = []
    if layers:
        table = LatencyTable(runtime, batch)
        try:
            with report.progress(quiet) as progress:
                found = layer_times(table, other, record_of(network).plans, progress)
        finally:
            for problem in table.problems:
                report.note(problem)
    dense, small = rows.values()
    if picture:
        if layers:
            times = {"dense": [t.ms_dense for t in found], artifact_dir: [t.ms for t in found]}
            draw(times, [t.site for t in found], picture)
        else:
            draw({name: [row["ms"]] for name, row in rows.items()}, [target], picture)
        report.wrote(picture)
    if as_json:
        document = {key: value for key, value in small.items() if value is not None}
        document |= {f"{key}_dense": dense[key] for key in document}
        document |= {"latency_ratio": small["ms"] / dense["ms"], **runtime.fingerprint()}
        document |= {"threads": runtime.threads, "batch": batch}
        document |= {"layers": [asdict(t) for t in found]} if layers else {}
        print(json.dumps(document))
        return
    if layers:
        report.out.print(report.layer_times_table(found))
    shown = {name: row | {"ms": row["ms"] / batch} for name, row in rows.items()}
    report.out.print(report.comparison_table(shown))
    report.out.print(
        f"{small['ms'] / dense['ms']:.3f} of the time, {dense['ms'] / small['ms']:.2f}x the speed "
        f"({target}, threads {runtime.threads}, batch {batch}, {dtype})"
    )


def _rows(
    networks: dict[str, nn.Module],
    input_size: tuple[int, int, int],
    target: Target,
    batch: int,
    seconds: float,
    progress: Progress,
) -> dict[str, dict[str, object]]:
    """Cost, time and memory of each network."""
    times = measure(
        networks, input_size, batch=batch, seconds=seconds, target=target, progress=progress
    )
    images = torch.zeros(batch, *input_size)
    return {
        name: vars(count(network, input_size))
        | {
            "ms": times[name].ms,
            "spread": times[name].spread,
            "layout": times[name].layout,
            "images_per_second": 1e3 * batch / times[name].ms,
            "peak_bytes": peak_bytes(target, network, images, times[name].layout),
        }
        for name, network in networks.items()
    }
