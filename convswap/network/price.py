"""What a plan costs on a network whose sites are known."""

from __future__ import annotations

from ..errors import PlanError
from ..forms import check_rank
from ..plans import Plan
from .observe import Observation
from .sites import replacement_cost


def price(plan: Plan, seen: Observation) -> Plan:
    """The same choices, with all costs counted on a network.

    What was timed stays only where the totals are what the plan says already.

    Raises:
        PlanError: a choice names no replaceable site, or a site twice.
        RankError: a form or rank does not fit its site.
    """
    known = {site.path: site for site in seen.sites}
    names = [choice.site for choice in plan.choices]
    if unknown := [name for name in names if name not in known or known[name].reason]:
        raise PlanError(
            f"the plan names layers that cannot be replaced here: {', '.join(unknown[:5])}",
            do="see `convswap inspect` for those that can",
        )
    if len(set(names)) < len(names):
        raise PlanError("the plan names a layer twice")
    choices, planned = [], seen.dense
    for choice in plan.choices:
        site = known[choice.site]
        check_rank(choice.form, site.unit, choice.rank)
        cost = replacement_cost(site, choice.form, choice.rank, plan.fit != "weight")
        planned = planned - site.cost + cost
        priced = {"macs": cost.macs, "params": cost.params, "macs_dense": site.cost.macs,
                  "pads": site.pads, "dtype": site.dtype}  # fmt: skip
        choices.append(choice.model_copy(update=priced))
    for norm in seen.norms if plan.fold_norms else ():
        replaced = norm.layer in names and plan.fit != "weight"
        planned = planned - norm.cost
        planned = planned if known[norm.layer].bias or replaced else planned + norm.bias
    if planned != plan.planned:  # edited, or for another input size: no longer what was timed
        untimed = {"ms": None, "ms_dense": None}
        choices = [choice.model_copy(update=untimed) for choice in choices]
    return plan.model_copy(update={
        "choices": tuple(choices),
        "dense": seen.dense,
        "planned": planned,
        "latency": plan.latency if planned == plan.planned else None,
        "damage": sum(choice.damage for choice in choices),
    })  # fmt: skip
