"""convswap sweep: the whole frontier of cost and quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

import convswap

from .. import plans
from ..support.files import FRONTIER, check_new, new_folder
from . import console, early
from . import goal_options as g
from . import options as o

if TYPE_CHECKING:
    from ..planning import Survey
    from ..results.frontier import Point

EXAMPLE = "convswap sweep timm:resnet18 --data photos/ --val val/ --points 6 --out frontier"
Points = Annotated[
    int, Parameter(help="budgets to try", validator=validators.Number(gte=2, lte=1000))
]
Least = Annotated[
    float,
    Parameter(
        help="smallest fraction of MACs to try", validator=validators.Number(gte=0.02, lte=0.9)
    ),
]


def sweep(
    model: o.Model,
    /,
    *,
    data: o.Data,
    out: Annotated[str, Parameter(help="folder to write")],
    val: g.Judges = None,
    judge: g.Judge = None,
    points: Points = 8,
    least: Least = 0.15,
    target: Annotated[plans.TargetName, Parameter(help="what runs the networks")] = "eager",
    network: o.Network = o.Network(),
    images: o.Calibration = o.Calibration(),
    layers: o.Layers = o.Layers(),
    output: o.Output = None,
    run: o.Run = o.Run(),
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Convert at several budgets from one look at the layers: a table, a picture and a page."""
    folder, by = check_new(out, force, [FRONTIER]), early.judges(judge, val, data)
    early.check(model, network, sources=[data])
    from ..results import frontier
    from . import opening, tables

    runtime = opening.open_timing(o.Timing(target=target), run)
    dense, batches = opening.open_calibrated(model, network, data, images, run, runtime)
    quality, budgets = opening.quality(dense, by, data, output), frontier.budgets(points, least)
    with console.progress(run.quiet) as progress:
        seen = convswap.survey(
            dense, batches, output=output, layers=layers.allowed, progress=progress, **run.planning
        )
        found = frontier.sweep(seen, batches, budgets, quality, target=runtime, progress=progress)
    facts = {"data": data, "val": by, "seed": run.seed, "target": runtime.fingerprint()}
    document = _write(found, seen, folder, model, facts)
    console.answer(as_json, document, *tables.frontier_tables(found, seen.dense))
    console.wrote(f"{out}/ (frontier.json, frontier.png)")
    console.wrote(folder / "report.html")


def _write(
    found: Sequence[Point], seen: Survey, out: Path, model: str, facts: Mapping[str, object]
) -> list[dict[str, object]]:
    """Write the frontier, its picture and its page; it as plain data."""
    from ..results import frontier, report

    page = report.report_on_frontier(found, seen, model, console.command(), facts)
    with new_folder(out) as new:
        report.write_report(page, new / "report.html")
        return frontier.save_frontier(found, new)
