"""convswap inspect: what is in a network, and what could replace it."""

from __future__ import annotations

from dataclasses import asdict, replace

from . import console
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
    """List every convolution: shape, cost, and what could replace it, or why nothing can."""
    from ..network.cost import count
    from ..network.sites import find_sites
    from . import opening, tables

    if model.startswith(("timm:", "torchvision:")) and network.weights is None:
        network = replace(network, random_weights=True)  # shapes are enough: nothing is downloaded
    opened = opening.open_network(model, network)
    size = opening.settle(opened, reading=o.Reading(input_size=input_size)).input_size
    sites, why_untraced = find_sites(opened, size)
    total = count(opened, size)
    rows = [asdict(s) | {"calls": s.calls, "forms": s.forms, **asdict(s.cost)} for s in sites]
    document = {"model": model, "input_size": size, "note": why_untraced, **asdict(total),
                "sites": rows}  # fmt: skip
    summary = tables.sites_summary(sites, total, size)
    console.answer(as_json, document, tables.sites_table(sites, total), summary)
    if why_untraced:
        console.note(f"note: {why_untraced}; what follows each convolution is not known")
