"""convswap bench: time networks side by side, on whatever will run them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from ..errors import ConvswapError
from ..support.files import check_new
from . import console
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
    float, Parameter(help="to measure each network, at most", validator=validators.Number(gte=0))
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
    run: o.Run = o.Run(),
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Time a converted network against the original, taking turns in one process."""
    from ..inputs.preprocess import settle_preprocess
    from ..results import pictures
    from ..results.comparison import compare
    from ..runtimes import open_target
    from . import opening, tables

    if layers and against:
        raise ConvswapError("--layers compares with the original network", do="omit --against")
    if picture:
        check_new(picture, force)
        pictures.check_picture(picture)
    target = open_target(timing.target, threads=run.threads, device=run.device, dtype=timing.dtype)
    small = opening.open_artifact(artifact_dir, original)
    size = settle_preprocess(small, note=console.note).input_size
    if against:
        code = o.Network(architecture=original.architecture, model_arg=original.model_arg)
        dense, name = opening.open_network(against, code), f"against {against}"
    else:
        dense, name = opening.open_original(small, original), "dense"
    networks = {name: dense, artifact_dir if artifact_dir != name else f"./{name}": small}
    with console.progress(run.quiet) as progress:
        rows = compare(
            networks, size, target, batch=timing.batch, seconds=seconds, progress=progress
        )
        times = _layer_times(target, timing.batch, dense, small, progress) if layers else []
    if picture:
        pictures.draw_comparison(rows, times, target.name, picture)
        console.wrote(picture)
    if as_json:
        console.document(_document(rows, times, target, timing.batch))
        return
    if layers:
        console.out.print(tables.layer_times_table(times))
    shown = {name: row | {"ms": row["ms"] / timing.batch} for name, row in rows.items()}
    console.out.print(tables.comparison_table(shown))
    console.out.print(tables.speed_summary(rows, target, timing.batch))


def _layer_times(
    target: Target, batch: int, dense: nn.Module, small: nn.Module, progress: Progress
) -> list[LayerTime]:
    """Times of every converted layer; says so of those that the target cannot run."""
    from ..record import record_of
    from ..timing import LatencyTable
    from ..timing.layer_times import layer_times

    table = LatencyTable(target, batch)
    try:
        return layer_times(table, dense, record_of(small).plans, progress)
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
