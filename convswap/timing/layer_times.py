"""Where a converted network's time goes: every converted layer beside the one it replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..forms import Rank
from ..network.calls import stand_in
from ..network.copies import deep_copy
from ..network.observe import observe
from ..network.price import price
from ..network.replace import install_
from ..network.sites import Site
from ..plans import Plan
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
        plan = price(plan, seen)
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
