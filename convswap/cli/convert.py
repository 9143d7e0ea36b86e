"""convswap convert: replace the layers, with fitted weights."""

from __future__ import annotations

import convswap

from ..plans import Drop
from ..support.files import check_new
from . import console
from . import options as o

EXAMPLE = "convswap convert timm:resnet18 --data photos/ --macs 0.5 --out r18-half"


def convert(
    model: o.Model,
    /,
    *,
    out: o.Folder,
    wanted: o.GoalOptions = o.GoalOptions(),
    network: o.Network = o.Network(),
    images: o.Fitting = o.Fitting(),
    layers: o.Layers = o.Layers(),
    output: o.Output = None,
    run: o.Run = o.Run(),
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Replace convolutions by separable ones, fitted to the images; no training."""
    from ..results.goals import reach
    from . import opening, tables

    check_new(out, force, folder=True)
    goal = wanted.goal
    fit = images.settled(goal)
    target = opening.timing_target(goal, wanted.timing, run)
    dense, batches = opening.open_calibrated(model, network, images.data, images, run, target)
    judge = opening.quality(dense, goal.judge, output) if isinstance(goal, Drop) else None
    with console.progress(run.quiet) as progress:
        small = reach(
            dense, goal, batches, fit=fit, output=output, layers=layers.allowed, target=target,
            batch=wanted.timing.batch, quality=judge, progress=progress, **run.planning,
        )  # fmt: skip
    provenance = {"data": images.data, "images": sum(len(b[0]) for b in batches),
                  "seed": run.seed, "command": console.command()}  # fmt: skip
    provenance |= {"target": target.fingerprint()} if target else {}
    convswap.save(small, out, provenance=provenance, force=force)
    applied = convswap.record_of(small).plans[-1]
    document = {"out": out, **vars(applied.planned), "plan": applied.model_dump(mode="json")}
    parts = [tables.plan_table(applied), tables.plan_summary(applied)]
    parts += [tables.quality_summary(judge(dense), judge(small), goal.judge)] if judge else []
    console.answer(as_json, document, *parts)
    console.wrote(out)
