"""convswap sweep: the whole frontier of cost and quality."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from .. import plans
from ..support.files import check_new
from . import console
from . import options as o

EXAMPLE = "convswap sweep timm:resnet18 --data photos/ --val val/ --points 6 --out frontier"
Points = Annotated[int, Parameter(help="budgets to try", validator=validators.Number(gte=2))]
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
    val: o.Judges = None,
    points: Points = 8,
    least: Least = 0.15,
    target: Annotated[plans.TargetName, Parameter(help="what runs the networks")] = "eager",
    output: o.Output = None,
    network: o.Network = o.Network(),
    images: o.Calibration = o.Calibration(),
    seed: o.Seed = 0,
    run: o.Run = o.Run(),
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Convert at several budgets from one look at the layers; a table, a file and a picture."""
    from ..planning import survey
    from ..results import frontier
    from ..runtimes import device_for, open_target
    from . import opening, tables

    check_new(out, force, folder=True)
    device = device_for(target, run.device)
    runtime = open_target(target, threads=run.threads, device=device)
    dense, batches = opening.open_calibrated(model, network, data, images, run, seed)
    judge = opening.quality(dense, val or data, output)
    with console.progress(run.quiet) as progress:
        seen = survey(dense, batches, output=output, seed=seed, progress=progress)
        found = frontier.sweep(
            seen, batches, frontier.budgets(points, least), judge, target=runtime,
            progress=progress,
        )  # fmt: skip
    Path(out).mkdir(exist_ok=True)
    document = frontier.save_frontier(found, out)
    if as_json:
        console.document(document)
    else:
        console.out.print(tables.frontier_table(found, seen.dense))
        console.out.print(tables.frontier_summary(found))
    console.wrote(f"{out}/ (frontier.json, frontier.png)")
