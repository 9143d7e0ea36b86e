"""convswap convert: replace the layers, with fitted weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import convswap

from ..plans import Drop
from . import configuration, console, early
from . import goal_options as g
from . import options as o

if TYPE_CHECKING:
    from ..runtimes import Target

SaveConfig = Annotated[
    str | None,
    Parameter(metavar="FILE.yaml", help="also write a recipe that `convswap run` repeats this by"),
]
EXAMPLE = "convswap convert timm:resnet18 --data photos/ --macs 0.5 --out r18-half"


def convert(
    model: o.Model,
    /,
    *,
    out: o.Folder,
    wanted: g.GoalOptions = g.GoalOptions(),
    network: o.Network = o.Network(),
    images: o.Fitting = o.Fitting(),
    layers: o.Layers = o.Layers(),
    output: o.Output = None,
    run: o.Run = o.Run(),
    save_config: SaveConfig = None,
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Replace convolutions by separable ones, fitted to the images; no training."""
    early.check_output(out, force)
    fit = images.settled(goal := wanted.goal)
    asked = (model, wanted, network, images, layers, output, run)
    write_recipe = configuration.writer(save_config, force, *asked)
    early.check_model(model, network)
    early.check_sources(images.data)
    early.check_goal(goal)
    from ..results.goals import reach
    from . import opening, tables

    target = opening.timing_target(goal, wanted.timing, run)
    dense, batches = opening.open_calibrated(model, network, images.data, images, run, target)
    judge = opening.quality(dense, goal.judge, output) if isinstance(goal, Drop) else None
    with console.progress(run.quiet) as progress:
        small = reach(
            dense, goal, batches, fit=fit, output=output, layers=layers.allowed, target=target,
            batch=wanted.timing.batch, quality=judge, progress=progress, **run.planning,
        )  # fmt: skip
    convswap.save(small, out, provenance=_made(images.data, batches, run, target), force=force)
    applied = convswap.record_of(small).plans[-1]
    document = {"out": out, **vars(applied.planned), "plan": applied.model_dump(mode="json")}
    parts = [tables.plan_table(applied), tables.plan_summary(applied)]
    parts += [tables.quality_summary(judge(dense), judge(small), goal.judge)] if judge else []
    console.answer(as_json, document, *parts)
    console.wrote(out)
    write_recipe()


def _made(
    data: str | None, batches: Sequence[Sequence], run: o.Run, target: Target | None
) -> dict[str, object]:
    """What is kept of how a network was made."""
    made = {"data": data, "images": sum(len(batch[0]) for batch in batches), "seed": run.seed}
    made |= {"command": console.command()}
    return made | ({"target": target.fingerprint()} if target else {})
