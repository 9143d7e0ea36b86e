"""convswap convert: replace the layers, with fitted weights."""

from __future__ import annotations

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
    data: o.Data | None = None,
    wanted: o.GoalOptions = o.GoalOptions(),
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
    """Replace convolutions by separable ones, fitted to the images; no training."""
    from .. import artifact
    from ..inputs.calibration import settle_fit
    from ..network.cost import count
    from ..record import record_of
    from ..results import frontier
    from ..results.goals import reach
    from . import opening, tables

    check_new(out, force, folder=True)
    goal = wanted.goal
    fit = settle_fit(fit or getattr(goal, "fit", None), data)
    target = opening.timing_target(goal, timing, run)
    dense, batches = opening.open_calibrated(model, network, data, images, run, seed)
    size = record_of(dense).preprocess.input_size
    judge = opening.quality(dense, goal.judge, output) if isinstance(goal, Drop) else None
    with console.progress(run.quiet) as progress:
        small = reach(
            dense, goal, batches, fit=fit, output=output, input_size=size, target=target,
            batch=timing.batch, quality=judge, seed=seed, progress=progress,
        )  # fmt: skip
    provenance = {"data": data, "images": sum(len(b[0]) for b in batches), "seed": seed}
    artifact.save(small, out, provenance=provenance, force=force)
    applied = record_of(small).plans[-1]
    if as_json:
        cost = vars(count(small, size))
        console.document({"out": out, **cost, "plan": applied.model_dump(mode="json")})
    else:
        console.out.print(tables.plan_table(applied))
        console.out.print(tables.plan_summary(applied))
        if judge:
            before, after = (frontier.score(judge(each)) for each in (dense, small))
            console.out.print(f"quality {before:.2f} -> {after:.2f} on {goal.judge}")
    console.wrote(out)
