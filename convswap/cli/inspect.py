"""convswap inspect: what is in a network, and what could replace it."""

from __future__ import annotations

from dataclasses import asdict

import convswap

from ..inputs.names import is_library
from . import console, early
from . import options as o

EXAMPLE = "convswap inspect timm:resnet18"


def inspect(
    model: o.Model,
    /,
    *,
    network: o.Network = o.Network(),
    input_size: o.InputSize = None,
    as_json: o.Json = False,
) -> None:
    """List every layer: shape, cost, and what could replace it, or why nothing can."""
    early.check(model, network)
    from ..inputs.bases import has_branches
    from ..inputs.networks import open_structure
    from . import opening, tables

    if is_library(model) and network.weights is None:  # shapes are enough: nothing is downloaded
        opened = open_structure(
            model, random_weights=network.random_weights, kwargs=network.kwargs,
            fold=network.reparameterize,
        )  # fmt: skip
    else:
        opened = opening.open_network(model, network)
    size = opening.settle(opened, reading=o.Reading(input_size=input_size)).input_size
    seen = convswap.observe(opened, size)
    sites, total = seen.sites, seen.dense
    rows = [asdict(s) | {"calls": s.calls, "forms": s.forms, **asdict(s.cost)} for s in sites]
    branches = model.startswith("timm:") and has_branches(opened)
    document = {"model": model, "input_size": size, "note": seen.note, "has_branches": branches,
                **asdict(total), "sites": rows}  # fmt: skip
    summary = tables.sites_summary(sites, total, size)
    console.answer(as_json, document, tables.sites_table(sites, total), summary)
    if branches:
        console.note(
            "it has branches for training that fold into single layers: --reparameterize, here "
            "and in other verbs, does that first (the same outputs, less work)"
        )
    if seen.note:
        console.note(f"note: {seen.note}; what follows each layer is not known")
