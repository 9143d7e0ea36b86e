"""convswap inspect: what is in a network, and what could replace it."""

from __future__ import annotations

import json
from dataclasses import asdict

from ..network.observe import observe
from . import opening, report
from . import options as o

EXAMPLE = "convswap inspect timm:resnet18"


def inspect(
    model: o.Model,
    architecture: o.Architecture = None,
    weights: o.Weights = None,
    random_weights: o.RandomWeights = False,
    model_arg: o.ModelArg = None,
    input_size: o.InputSize = None,
    as_json: o.Json = False,
) -> None:
    """List every convolution: shape, cost, and what could replace it, or why nothing can."""
    by_name = model.startswith(("timm:", "torchvision:")) and weights is None
    network = opening.open_network(
        model,
        architecture=architecture,
        weights=weights,
        random_weights=random_weights or by_name,  # shapes are enough: nothing is downloaded
        model_arg=model_arg,
    )
    size = opening.settle_preprocess(network, input_size=input_size).input_size
    seen = observe(network, size)
    sites, total, why_untraced = seen.sites, seen.dense, seen.note
    if as_json:
        rows = [asdict(s) | {"calls": s.calls, "forms": s.forms, **asdict(s.cost)} for s in sites]
        document = {"model": model, "input_size": size, "note": why_untraced,
                    **asdict(total), "sites": rows}  # fmt: skip
        print(json.dumps(document))
        return
    report.out.print(report.sites_table(sites, total))
    replaceable = [site for site in sites if not site.reason]
    share = sum(site.cost.macs for site in replaceable) / max(total.macs, 1)
    report.out.print(
        f"{len(replaceable)} of {len(sites)} convolutions can be replaced, {share:.1%} of "
        f"{report.quantity(total.macs)} MACs at {'x'.join(map(str, size))}; "
        f"{report.quantity(total.params)} parameters"
    )
    if why_untraced:
        report.note(f"note: {why_untraced}; what follows each convolution is not known")
