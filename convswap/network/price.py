"""What a plan costs on a network whose sites are known."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import PlanError
from ..forms import check_rank
from ..plans import Cost, Plan
from .sites import Site, replacement_cost


def price(plan: Plan, sites: Iterable[Site], dense: Cost) -> Plan:
    """The same choices, with all costs counted on the sites of a network.

    What was timed stays only where the totals are what the plan says already.

    Args:
        dense: what the whole network costs before.

    Raises:
        PlanError: a choice names no replaceable site, or a site twice.
        RankError: a form or rank does not fit its site.
    """
    known = {site.path: site for site in sites}
    names = [choice.site for choice in plan.choices]
    if unknown := [name for name in names if name not in known or known[name].reason]:
        raise PlanError(
            f"the plan names layers that cannot be replaced here: {', '.join(unknown[:5])}",
            do="see `convswap inspect` for those that can",
        )
    if len(set(names)) < len(names):
        raise PlanError("the plan names a layer twice")
    choices, planned = [], dense
    for choice in plan.choices:
        site = known[choice.site]
        check_rank(choice.form, site.unit, choice.rank)
        cost = replacement_cost(site, choice.form, choice.rank, plan.fit != "weight")
        planned = planned - site.cost + cost
        priced = {"macs": cost.macs, "params": cost.params, "macs_dense": site.cost.macs,
                  "pads": site.pads}  # fmt: skip
        choices.append(choice.model_copy(update=priced))
    if planned != plan.planned:  # edited, or for another input size: no longer what was timed
        untimed = {"ms": None, "ms_dense": None}
        choices = [choice.model_copy(update=untimed) for choice in choices]
    return plan.model_copy(update={
        "choices": tuple(choices),
        "dense": dense,
        "planned": planned,
        "latency": plan.latency if planned == plan.planned else None,
        "damage": sum(choice.damage for choice in choices),
    })  # fmt: skip
