"""convswap evaluate: accuracy on labelled images, or closeness to another network."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from ..errors import DataError
from . import console
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
    seed: o.Seed = 0,
    run: o.Run = o.Run(),
    as_json: o.Json = False,
) -> None:
    """Measure top-1 and top-5 (percent) on labelled images, or --against another network.

    Classes are the folders' names in alphabetical order. With --against the original
    network of an artifact, its weights are found where they were at conversion; --weights are
    others.
    """
    from ..inputs.preprocess import settle_preprocess
    from ..network.cost import count
    from ..network.outputs import output_kind
    from ..record import planned_output
    from ..results.evaluation import accuracy, fidelity, open_judges
    from . import opening, tables

    theirs = replace(network, random_weights=False)
    if opening.is_artifact(model):  # it has its own weights: those given are of the other
        network = replace(network, weights=None)
    else:
        theirs = replace(theirs, weights=None)
    opened = opening.open_network(model, network, run, seed)
    size = settle_preprocess(opened, data, **vars(reading), note=console.note).input_size
    source = open_judges(opened, data, console.note)
    batches = source.batches(batch_size, count=images, seed=seed)
    if source.classes is None and not against:
        raise DataError(
            f"{data} has no labels", do="use class folders, or compare --against a MODEL"
        )
    with console.progress(run.quiet) as progress:
        if against:
            other = opening.open_other(opened, against, theirs, run)
            kind = planned_output(opened) or output_kind(other, [next(iter(batches))])
            found = fidelity(opened, other, batches, kind, progress)
        else:
            found = accuracy(opened, batches, progress)
    found |= vars(count(opened, size)) | {"skipped": source.skipped}
    if as_json:
        console.document(found)
        return
    console.out.print(tables.comparison_table({model: found}))
    if source.skipped:
        console.note(f"skipped {source.skipped} unreadable images of {data}")
