"""convswap plan: choose, and write the choice down."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .. import planning
from ..support.files import check_new
from . import opening, report
from . import options as o

EXAMPLE = "convswap plan timm:resnet18 --data photos/ --macs 0.5 --out plan.json"


def plan(
    model: o.Model,
    out: Annotated[str, typer.Option("--out", help="plan file to write")],
    data: Annotated[str | None, typer.Option("--data", metavar="SRC", help=o.DATA_HELP)] = None,
    macs: o.Macs = None,
    params: o.Params = None,
    latency: o.Latency = None,
    target: o.TargetName = "eager",
    batch: o.Batch = 1,
    dtype: o.Dtype = "float32",
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
    """Choose a form and rank per convolution that meet a budget; nothing is converted yet."""
    check_new(out, force)
    budget = opening.budget(macs, params, latency)
    runtime = opening.timing_target(budget, target, threads, device, dtype, batch)
    network = opening.open_network(
        model, architecture=architecture, weights=weights, random_weights=random_weights,
        seed=seed, model_arg=model_arg, device=device, threads=threads,
    )  # fmt: skip
    preprocess = opening.settle_preprocess(network, data, input_size, mean, std)
    fit, batches = opening.fit_and_batches(network, data, fit, images, memory, batch_size, seed)
    with report.progress(quiet) as progress:
        chosen = planning.plan(
            network, batches, budget, fit=fit, input_size=preprocess.input_size,
            target=runtime, batch=batch, seed=seed, progress=progress,
        )  # fmt: skip
    chosen.save(out)
    if as_json:
        print(json.dumps(chosen.model_dump(mode="json")))
    else:
        report.out.print(report.plan_table(chosen))
        report.out.print(report.plan_summary(chosen))
    report.wrote(out)
