"""convswap bench: time networks side by side, on whatever will run them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

import convswap

from ..errors import ConvswapError
from ..results import pictures
from ..support.files import check_new
from . import console, early
from . import options as o

if TYPE_CHECKING:
    from torch import nn

    from ..runtimes import Target
    from ..support.progress import Progress
    from ..timing.layer_times import LayerTime

EXAMPLE = "convswap bench r18-half --target onnxruntime --threads 1 --layers"
Against = Annotated[
    str | None, Parameter(metavar="MODEL", help="another network; default: the original one")
]
Layers = Annotated[bool, Parameter(help="time every converted layer by itself, too")]
Picture = Annotated[str | None, Parameter(metavar="FILE.png", help="draw the times")]
Seconds = Annotated[
    float,
    Parameter(help="to measure each network, at most", validator=validators.Number(gte=0, lte=1e6)),
]


def bench(
    artifact_dir: o.Artifact,
    /,
    *,
    against: Against = None,
    timing: o.Timing = o.Timing(),
    layers: Layers = False,
    picture: Picture = None,
    seconds: Seconds = 5.0,
    original: o.Original = o.Original(),
    machine: o.Machine = o.Machine(),
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Time a converted network against the original, taking turns in one process."""
    if layers and against:
        raise ConvswapError("--layers compares with the original network", do="omit --against")
    if picture:
        pictures.check_picture(check_new(picture, force))
    early.check(artifact=artifact_dir, against=against)
    from ..results.comparison import compare
    from . import opening, tables

    target = convswap.open_target(
        timing.target, threads=machine.threads, device=machine.device, dtype=timing.dtype
    )
    small = opening.open_artifact(artifact_dir, original)
    size = opening.settle(small).input_size
    name, dense = _open_other(small, against, original)
    networks = {name: dense, artifact_dir if artifact_dir != name else f"./{name}": small}
    with console.progress(machine.quiet) as progress:
        settings = {"batch": timing.batch, "seconds": seconds, "progress": progress}
        rows = compare(networks, size, target, **settings)
        times = _layer_times(target, timing.batch, dense, small, progress) if layers else []
    if picture:
        pictures.draw_comparison(rows, times, target.name, picture)
        console.wrote(picture)
    document = _document(rows, times, target, timing.batch)
    console.answer(as_json, document, *tables.bench_tables(rows, times, target, timing.batch))


def _open_other(
    small: nn.Module, against: str | None, original: o.Original
) -> tuple[str, nn.Module]:
    """What a network is timed against, and the name to show it by."""
    from . import opening

    if against is None:
        return "dense", opening.open_original(small, original)
    code = o.Network(architecture=original.architecture, model_arg=original.model_arg)
    return f"against {against}", opening.open_network(against, code)


def _layer_times(
    target: Target, batch: int, dense: nn.Module, small: nn.Module, progress: Progress
) -> list[LayerTime]:
    """Times of every converted layer; says so of those that the target cannot run."""
    from ..timing.layer_times import layer_times

    table = convswap.LatencyTable(target, batch)
    try:
        return layer_times(table, dense, convswap.record_of(small).plans, progress)
    finally:
        for problem in table.problems:
            console.note(problem)


def _document(
    rows: dict[str, dict], times: list[LayerTime], target: Target, batch: int
) -> dict[str, object]:
    """What was measured, for programs."""
    dense, small = rows.values()
    kept = {key: value for key, value in small.items() if value is not None}
    before = {f"{key}_dense": dense[key] for key in kept}
    where = target.fingerprint() | {"threads": target.threads, "batch": batch}
    layers = {"layers": [asdict(time) for time in times]} if times else {}
    return kept | before | {"latency_ratio": small["ms"] / dense["ms"]} | where | layers
