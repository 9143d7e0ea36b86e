"""convswap convert: replace the layers, with fitted weights."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .. import artifact, plans
from ..errors import ConvswapError
from ..network.cost import count
from ..planning import survey
from ..record import record_of
from ..results import frontier
from ..support.files import check_new
from ..surgery import convert as converting
from . import opening, report
from . import options as o

EXAMPLE = "convswap convert timm:resnet18 --data photos/ --macs 0.5 --out r18-half"


def convert(
    model: o.Model,
    out: Annotated[str, typer.Option("--out", help="artifact folder to write")],
    data: Annotated[str | None, typer.Option("--data", metavar="SRC", help=o.DATA_HELP)] = None,
    macs: o.Macs = None,
    params: o.Params = None,
    latency: o.Latency = None,
    target: o.TargetName = "eager",
    batch: o.Batch = 1,
    dtype: o.Dtype = "float32",
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", help="in place of a budget: most points to lose on --val"),
    ] = None,
    val: o.Val = None,
    plan: Annotated[
        str | None, typer.Option("--plan", help="a plan file, in place of a budget")
    ] = None,
    fit: o.FitOption = None,
    images: o.ImagesOption = 1000,
    memory: o.Memory = None,
    seed: o.Seed = 0,
    architecture: o.Architecture = None,
    weights: o.Weights = None,
    random_weights: o.RandomWeights = False,
    model_arg: o.ModelArg = None,
    input_size: o.InputSize = None,
    mean: o.Mean = None,
    std: o.Std = None,
    batch_size: o.BatchSize = 64,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    force: o.Force = False,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Replace convolutions by separable ones, fitted to the images; no training."""
    check_new(out, force, folder=True)
    limits = [macs, params, latency]
    given = [any(limit is not None for limit in limits), plan is not None, max_drop is not None]
    if sum(given) > 1:
        raise ConvswapError(
            "give one of a budget (--macs, --params, --latency), --max-drop and --plan"
        )
    if (max_drop is None) != (val is None):
        raise ConvswapError("--max-drop and --val go together")
    chosen = plans.Plan.load(plan) if plan else None
    budget = None if chosen or max_drop is not None else opening.budget(macs, params, latency)
    runtime = opening.timing_target(budget, target, threads, device, dtype, batch)
    network = opening.open_network(
        model, architecture=architecture, weights=weights, random_weights=random_weights,
        seed=seed, model_arg=model_arg, device=device, threads=threads,
    )  # fmt: skip
    preprocess = opening.settle_preprocess(network, data, input_size, mean, std)
    asked = fit or (chosen.fit if chosen else None)
    fit, batches = opening.fit_and_batches(network, data, asked, images, memory, batch_size, seed)
    with report.progress(quiet) as progress:
        if chosen is None:
            seen = survey(
                network, batches, budgets=[budget] if budget else [], fit=fit, seed=seed,
                input_size=preprocess.input_size, progress=progress,
            )  # fmt: skip
        if max_drop is not None:
            judge = opening.quality(network, val)
            small, _ = frontier.smallest_within(seen, batches, max_drop, judge, progress=progress)
        else:
            chosen = chosen or seen.plan(budget, target=runtime, batch=batch, progress=progress)
            chosen = chosen.model_copy(update={"fit": fit})
            small = converting.convert(network, chosen, batches, progress=progress)
    provenance = {"data": data, "images": sum(len(b[0]) for b in batches), "seed": seed}
    artifact.save(small, out, provenance=provenance, force=force)
    applied = record_of(small).plans[-1]
    if as_json:
        cost = count(small, preprocess.input_size)
        print(json.dumps({"out": out, **vars(cost), "plan": applied.model_dump(mode="json")}))
    else:
        report.out.print(report.plan_table(applied))
        report.out.print(report.plan_summary(applied))
        if max_drop is not None:
            before, after = (frontier.score(judge(each)) for each in (network, small))
            report.out.print(f"quality {before:.2f} -> {after:.2f} on {val}")
    report.wrote(out)
