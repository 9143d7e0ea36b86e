"""convswap plan: choose, and write the choice down."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from ..support.files import check_new
from . import console
from . import options as o

EXAMPLE = "convswap plan timm:resnet18 --data photos/ --macs 0.5 --out plan.json"


def plan(
    model: o.Model,
    /,
    *,
    out: Annotated[str, Parameter(help="plan file to write")],
    data: o.Data | None = None,
    wanted: o.BudgetOptions = o.BudgetOptions(),
    timing: o.Timing = o.Timing(),
    fit: o.Fit = None,
    output: o.Output = None,
    network: o.Network = o.Network(),
    images: o.Calibration = o.Calibration(),
    seed: o.Seed = 0,
    run: o.Run = o.Run(),
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Choose a form and rank per convolution that meet a budget; nothing is converted yet."""
    from .. import planning
    from ..inputs.calibration import settle_fit
    from ..record import record_of
    from . import opening, tables

    check_new(out, force)
    goal, fit = wanted.goal, settle_fit(fit, data)
    target = opening.timing_target(goal, timing, run)
    dense, batches = opening.open_calibrated(model, network, data, images, run, seed)
    with console.progress(run.quiet) as progress:
        chosen = planning.plan(
            dense, batches, goal, fit=fit, output=output, target=target, batch=timing.batch,
            input_size=record_of(dense).preprocess.input_size, seed=seed, progress=progress,
        )  # fmt: skip
    chosen.save(out)
    if as_json:
        console.document(chosen.model_dump(mode="json"))
    else:
        console.out.print(tables.plan_table(chosen))
        console.out.print(tables.plan_summary(chosen))
    console.wrote(out)
