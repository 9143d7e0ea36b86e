"""convswap evaluate: accuracy on labelled images, or closeness to another network."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

import convswap

from . import console, early
from . import options as o

EXAMPLE = "convswap evaluate r18-half --data val/ --json"
Against = Annotated[
    str | None,
    Parameter(metavar="MODEL", help="a network to compare outputs with; no labels needed"),
]


def evaluate(
    model: o.Model,
    /,
    *,
    data: o.Data,
    against: Against = None,
    images: Annotated[o.Count | None, Parameter(help="at most so many")] = None,
    batch_size: o.BatchSize = 128,
    network: o.Network = o.Network(),
    reading: o.Reading = o.Reading(),
    run: o.Run = o.Run(),
    as_json: o.Json = False,
) -> None:
    """Measure top-1 and top-5 (percent) on labelled images, or --against another network.

    Classes are the folders' names, numbered as the network names them. With --against the original
    network of an artifact, its weights are found where they were at conversion; --weights and
    --random-weights are others.
    """
    early.check(model, network, against=against, sources=[data])
    from ..results import evaluation
    from . import opening, tables

    opened, other = opening.open_pair(model, against, network, run)
    size = opening.settle(opened, data, reading).input_size
    source = evaluation.open_judges(opened, data, console.note)
    batches = source.batches(batch_size, count=images, seed=run.seed)
    with console.progress(run.quiet) as progress:
        if other:
            found = evaluation.closeness(opened, other, batches, progress=progress)
        else:
            found = evaluation.labelled_accuracy(opened, source, batches, progress)
    found |= vars(convswap.count(opened, size)) | {"skipped": source.skipped}
    console.answer(as_json, found, tables.comparison_table({model: found}))
