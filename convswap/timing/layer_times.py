"""Where a converted network's time goes: every converted layer beside the one it replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..errors import ConvswapError
from ..forms import Rank
from ..network.calls import stand_in
from ..network.copies import deep_copy
from ..network.observe import observe
from ..network.price import price
from ..network.replace import install_
from ..network.sites import Site
from ..plans import Plan
from ..support.files import new_file
from ..support.progress import Progress, silent
from .latency import LatencyTable


@dataclass(frozen=True)
class LayerTime:
    """One converted layer.

    Attributes:
        macs_kept: fraction of the dense layer's multiply-adds.
        ms_dense, ms: measured, before and after, by itself.
        ms_planned: what the plan predicted, if it did.
    """

    site: str
    form: str
    rank: Rank
    macs_kept: float
    ms_dense: float
    ms: float
    ms_planned: float | None


def layer_times(
    table: LatencyTable, dense: nn.Module, plans: Sequence[Plan], progress: Progress = silent
) -> list[LayerTime]:
    """Measure every layer that plans converted.

    Args:
        dense: the network before the first of the plans; each was made for what the one
            before it left.

    Raises:
        TargetError: the target cannot run a layer or what replaced it.
        PlanError, RankError: a plan does not fit.
    """
    network, chosen = deep_copy(dense), []
    for plan in plans:
        seen = observe(network, stand_in(network, plan.inputs))
        sites: dict[str, Site] = {site.path: site for site in seen.sites}
        plan = price(plan, seen.sites, seen.dense)
        chosen += [(sites[choice.site], choice) for choice in plan.choices]
        install_(network, plan)
    table.measure([(site, choice.form, choice.rank) for site, choice in chosen], progress)
    return [
        LayerTime(
            choice.site,
            choice.form,
            choice.rank,
            choice.macs / choice.macs_dense,
            table.ms(site),
            table.ms(site, choice.form, choice.rank),
            choice.ms,
        )
        for site, choice in chosen
    ]


def check_picture(path: str | Path) -> None:
    """Raise `ConvswapError` unless the ending of a name is that of a kind of picture."""
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if Path(path).suffix[1:].lower() not in known:
        raise ConvswapError(f"{path} is not the name of a picture", do="say FILE.png or FILE.svg")


def draw(bars: Mapping[str, Sequence[float]], groups: Sequence[str], path: str | Path) -> None:
    """Write a picture of times side by side.

    Args:
        bars: what is compared -> milliseconds, one per group.
        groups: names below the bars.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4, 0.35 * len(groups) * len(bars)), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(bars)
    for index, (name, values) in enumerate(bars.items()):
        places = [group + (index - (len(bars) - 1) / 2) * width for group in range(len(groups))]
        axes.bar(places, values, width, label=name)
    axes.set_xticks(range(len(groups)), groups, rotation=90 if len(groups) > 3 else 0)
    axes.set_ylabel("milliseconds")
    axes.legend()
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
