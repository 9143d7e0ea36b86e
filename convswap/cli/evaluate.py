"""convswap evaluate: accuracy on labelled images, or closeness to another network."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..errors import DataError
from ..network.calls import read_batch
from ..network.cost import count
from ..network.outputs import output_kind
from ..results.evaluation import accuracy, fidelity
from . import opening, report
from . import options as o

EXAMPLE = "convswap evaluate r18-half --data val/ --json"


def evaluate(
    model: o.Model,
    data: o.Data,
    against: Annotated[
        str | None,
        typer.Option("--against", help="a MODEL to compare outputs with; no labels needed"),
    ] = None,
    images: Annotated[int | None, typer.Option("--images", help="at most so many", min=1)] = None,
    architecture: o.Architecture = None,
    weights: o.Weights = None,
    random_weights: o.RandomWeights = False,
    model_arg: o.ModelArg = None,
    input_size: o.InputSize = None,
    mean: o.Mean = None,
    std: o.Std = None,
    batch_size: o.BatchSize = 128,
    seed: o.Seed = 0,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Measure top-1 and top-5 (percent) on labelled images, or --against another network.

    Classes are the folders' names in alphabetical order. With --against the original
    network of an artifact, its weights are found where they were at conversion; --weights are
    others.
    """
    artifact = opening.is_artifact(model)
    network = opening.open_network(
        model, architecture=architecture, model_arg=model_arg, device=device, threads=threads,
        seed=seed, weights=None if artifact else weights, random_weights=random_weights,
    )  # fmt: skip
    preprocess = opening.settle_preprocess(network, data, input_size, mean, std)
    source = opening.source_images(network, data, held_out=True)
    batches = source.batches(batch_size, count=images, seed=seed)
    with report.progress(quiet) as progress:
        if against:
            if artifact and opening.is_original(network, against):
                other = opening.open_original(network, against, weights, model_arg, device)
            else:
                other = opening.open_network(
                    against, architecture=architecture, model_arg=model_arg, device=device,
                    weights=weights if artifact else None,
                )  # fmt: skip
            kind = output_kind(other, [read_batch(other, next(iter(batches)))])
            found = fidelity(network, other, batches, kind, progress)
        else:
            if source.classes is None:
                raise DataError(
                    f"{data} has no labels", do="use class folders, or compare --against a MODEL"
                )
            found = accuracy(network, batches, progress)
    found |= vars(count(network, preprocess.input_size)) | {"skipped": source.skipped}
    if as_json:
        print(json.dumps(found))
        return
    report.out.print(report.comparison_table({model: found}))
    if source.skipped:
        report.note(f"skipped {source.skipped} unreadable images of {data}")
