"""convswap plan: choose, and write the choice down."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

import convswap

from ..support.files import check_new
from . import console, early
from . import goal_options as g
from . import options as o

EXAMPLE = "convswap plan timm:resnet18 --data photos/ --macs 0.5 --out plan.json"


def plan(
    model: o.Model,
    /,
    *,
    out: Annotated[str, Parameter(help="plan file to write")],
    wanted: g.BudgetOptions = g.BudgetOptions(),
    network: o.Network = o.Network(),
    images: o.Fitting = o.Fitting(),
    layers: o.Layers = o.Layers(),
    output: o.Output = None,
    run: o.Run = o.Run(),
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Choose a form and rank per convolution that meet a budget; nothing is converted yet.

    On several devices: `torchrun --nproc-per-node N -m convswap plan ...`.
    """
    if early.leads():
        check_new(out, force)
    fit = images.settled(goal := wanted.goal)
    early.check(model, network, sources=[images.data])
    from . import opening, tables

    with opening.processes(run, sharing=True) as run:
        target = opening.timing_target(goal, wanted.timing, run)
        dense, batches = opening.open_calibrated(model, network, images.data, images, run, target)
        with console.progress(run.quiet) as progress:
            chosen = convswap.plan(
                dense, batches, goal, fit=fit, output=output, layers=layers.allowed, target=target,
                batch=wanted.timing.batch, progress=progress, **run.planning,
                input_size=convswap.record_of(dense).preprocess.input_size,
            )  # fmt: skip
    if not early.leads():
        return
    chosen.save(out)
    table, summary = tables.plan_table(chosen), tables.plan_summary(chosen)
    console.answer(as_json, chosen.model_dump(mode="json"), table, summary)
    console.wrote(out)
