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
    from torch import nn

    from ..plans import Fit, Kind
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
    """Replace convolutions by separable ones, fitted to the images; no training.

    On several devices: `torchrun --nproc-per-node N -m convswap convert`, and so on.
    """
    early.check_output(out, force)
    fit = images.settled(goal := wanted.goal)
    asked = (model, wanted, network, images, layers, output, run)
    write_recipe = configuration.writer(save_config if early.leads() else None, force, *asked)
    early.check(model, network, sources=[images.data], goal=goal)
    small, provenance, kept = _converted(fit, *asked)
    if not early.leads():
        return
    from . import tables

    convswap.save(small, out, provenance=provenance, force=force)
    applied = convswap.record_of(small).plans[-1]
    document = {"out": out, **vars(applied.planned), "plan": applied.model_dump(mode="json")}
    parts = [tables.plan_table(applied), tables.plan_summary(applied), *kept]
    console.answer(as_json, document, *parts)
    console.wrote(out)
    write_recipe()


def _converted(
    fit: Fit,
    model: str,
    wanted: g.GoalOptions,
    network: o.Network,
    images: o.Fitting,
    layers: o.Layers,
    output: Kind | None,
    run: o.Run,
) -> tuple[nn.Module, dict[str, object], list[str]]:
    """The network, how it was made, and a line on what it can do, if that was judged."""
    from ..results.goals import reach
    from . import opening, tables

    with opening.processes(run, sharing=True) as run:
        goal = wanted.goal
        target = opening.timing_target(goal, wanted.timing, run)
        dense, batches = opening.open_calibrated(model, network, images.data, images, run, target)
        judge = None
        if isinstance(goal, Drop):
            judge = opening.quality(dense, goal.judge, images.data, output)
        with console.progress(run.quiet) as progress:
            small = reach(
                dense, goal, batches, fit=fit, output=output, layers=layers.allowed, target=target,
                batch=wanted.timing.batch, quality=judge, progress=progress, **run.planning,
            )  # fmt: skip
        told = judge and early.leads()
        kept = [tables.quality_summary(judge(dense), judge(small), goal.judge)] if told else []
        return small, _made(images.data, batches, run, target), kept


def _made(
    data: str | None, batches: Sequence[Sequence], run: o.Run, target: Target | None
) -> dict[str, object]:
    """What is kept of how a network was made."""
    from ..support import ranks

    images = sum(ranks.gathered(sum(len(batch[0]) for batch in batches)))
    made = {"data": data, "images": images, "seed": run.seed}
    made |= {"command": console.command()}
    return made | ({"target": target.fingerprint()} if target else {})
