"""convswap sweep: the whole frontier of cost and quality."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ..planning import survey
from ..plans import Budget
from ..results import frontier
from ..runtimes import open_target
from ..support.files import check_new
from . import opening, report
from . import options as o

EXAMPLE = "convswap sweep timm:resnet18 --data photos/ --val val/ --points 6 --out frontier"


def sweep(
    model: o.Model,
    data: o.Data,
    out: Annotated[str, typer.Option("--out", help="folder to write")],
    val: o.Val = None,
    points: Annotated[int, typer.Option("--points", help="budgets to try", min=2)] = 8,
    least: Annotated[
        float, typer.Option("--least", help="smallest fraction of MACs to try", min=0.02, max=0.9)
    ] = 0.15,
    target: o.TargetName = "eager",
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
    """Convert at several budgets from one look at the layers; a table, a file and a picture."""
    check_new(out, force, folder=True)
    runtime = open_target(target, threads=threads, device=opening.device_for(target, device))
    network = opening.open_network(
        model, architecture=architecture, weights=weights, random_weights=random_weights,
        seed=seed, model_arg=model_arg, device=device, threads=threads,
    )  # fmt: skip
    opening.settle_preprocess(network, data, input_size, mean, std)
    fit, batches = opening.fit_and_batches(network, data, None, images, memory, batch_size, seed)
    quality = opening.quality(network, val or data)
    budgets = [Budget(macs=float(share)) for share in np.geomspace(0.9, least, points)]
    with report.progress(quiet) as progress:
        seen = survey(network, batches, fit=fit, seed=seed, progress=progress)
        found = frontier.sweep(seen, batches, budgets, quality, target=runtime, progress=progress)
    Path(out).mkdir(exist_ok=True)
    frontier.save_frontier(found, out)
    if as_json:
        print((Path(out) / "frontier.json").read_text(), end="")
    else:
        rows = {
            "dense" if point.plan is None else f"macs {point.macs_kept:.3f}": point.figures
            | {"ms": point.ms, "macs": point.macs_kept * seen.dense.macs}
            for point in found
        }
        report.out.print(report.comparison_table(rows))
        best = frontier.knee(found)
        report.out.print(
            f"knee: {best.macs_kept:.1%} of the MACs keep {best.score:.2f} of {found[0].score:.2f}"
        )
    report.wrote(f"{out}/ (frontier.json, frontier.png)")
