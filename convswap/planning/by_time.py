"""Meet a time: choose by the times of single layers, measure the whole network, correct, again."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BudgetError, ConversionError
from ..forms import Rank
from ..network.cost import TimedCost
from ..network.price import price
from ..network.sites import Site
from ..plans import Budget, Plan
from ..runtimes import Target
from ..support.plain import pathless
from ..support.progress import Progress, silent
from ..timing import LatencyTable
from ..timing.turns import BUSY
from .candidates import Candidate, snap
from .knapsack import solve
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from .surveying import Survey

FASTER = 0.95  # of a layer's time is the most a replacement may take to be a candidate
NEAR = 0.03  # of the budget is near enough: measured times are not more certain
TRIES = 6  # of composing and measuring
KNOTS = 4  # ranks per form that are timed at first; the others are interpolated


def meet_latency(
    survey: Survey,
    budget: Budget,
    target: Target,
    *,
    batch: int = 1,
    table: LatencyTable | None = None,
    progress: Progress = silent,
) -> Plan:
    """The choice with the least summed damage whose network really is as fast as asked.

    Ranks are set to the multiples that the target likes. Layers are timed one by one, in short
    context; what they promise together is compared with what the composed network saves, all
    promises are scaled by that, and the choice is made again until the budget is met. Then
    layers are given back, those that promise least first, where the whole network is no slower
    without their replacement, and counts stay in budget.

    Args:
        budget: `latency`, and other bounds if wanted.
        batch: images per forward pass.
        table: of layer times; default: the user's own, which is kept on disk.

    Raises:
        ConversionError: nothing makes a layer, or the network, faster; the message says how
            close each came.
        BudgetError: the budget cannot be met, or was not, by more than 3 % of it; the message
            says the least reachable.
        TargetError: the target cannot run the network.
    """
    stopwatch = Stopwatch(target, survey, batch)
    spread, busy = stopwatch.dense.spread, ()
    if spread > BUSY:  # said before the long part, which may then take long and tell little
        busy = (f"the machine is busy: the same network's times vary by {spread:.0%}",)
        progress(busy[0], 0, 0)
    table = table or LatencyTable(target, batch)
    survey = _snapped(survey, table.multiple())
    table.measure(_knots(survey), progress)
    if not any(_faster(survey, table).values()):
        raise ConversionError(
            f"no layer has a faster replacement on {target.name}: {_closest(survey, table)}",
            do="try another target, batch size or number of threads",
        )
    search = _Search(survey, budget, table, stopwatch)
    best = _without_idle(_best_of(search, progress), search)
    if survey.seen.norms and not best.choices and _ratio(best) <= budget.latency:
        raise ConversionError(
            f"folding batch norms alone takes the network to {_ratio(best):.2f} of its time",
            do="call fold_norms, or ask for less time",
        )
    if best.latency.ms >= best.latency.ms_dense or not best.choices:
        raise ConversionError(
            f"the network does not get faster on {target.name}: {best.latency.ms_dense:.3g} ms "
            f"before, {best.latency.ms:.3g} ms after; {_closest(survey, table)}"
        )
    if _ratio(best) > (1 + NEAR) * budget.latency:
        raise BudgetError(
            f"budget cannot be met: latency {budget.latency:.3g} asked, "
            f"{math.ceil(1e3 * _ratio(best)) / 1e3:.3f} is the least that was reached",
            do="raise latency to that or more",
        )
    latency = best.latency.model_copy(update={"problems": tuple(map(pathless, table.problems))})
    return best.model_copy(update={"latency": latency, "notes": best.notes + busy})


@dataclass
class _Search:
    """A search for a plan that takes the time asked.

    Attributes:
        kept: the part of what layers save by themselves that the network is said to save.
    """

    survey: Survey
    budget: Budget
    table: LatencyTable
    stopwatch: Stopwatch
    kept: float = 1.0

    def choose(self) -> Plan:
        """The best plan by what is known of times so far.

        Raises:
            BudgetError: by that, none meets the budget.
        """
        chosen = _choose(self.survey, self.budget, self.table, self.stopwatch, self.kept)
        return self.survey.plan_of(chosen, self.budget)

    def fastest(self) -> Plan:
        """The plan that takes the least time by the times of single layers."""
        return self.survey.plan_of(_fastest(self.survey, self.table), self.budget)

    def timed(self, plan: Plan) -> Plan:
        """The plan with the time that its network takes."""
        return self.stopwatch.timed(plan, self.table, self.kept)

    def learn(self, plan: Plan) -> None:
        """Scale what layers promise by what the network has saved."""
        start = self.stopwatch.whole / self.stopwatch.dense.ms
        promised = start - plan.latency.ms_predicted / plan.latency.ms_dense
        self.kept *= float(np.clip((start - _ratio(plan)) / promised, 1 / 3, 3))

    def is_met(self, plan: Plan) -> bool:
        """Whether a plan takes the time asked, and hardly less."""
        return (1 - NEAR) * self.budget.latency <= _ratio(plan) <= self.budget.latency


def _best_of(search: _Search, progress: Progress) -> Plan:
    """The plan nearest to the budget, of a few that are composed and measured."""
    best: Plan | None = None
    at_limit = False
    for attempt in range(TRIES):
        try:
            plan = search.choose()
        except BudgetError:  # by the times of single layers: see what the network says
            plan = search.fastest()
            if at_limit or not _counts_met(plan, search.survey):
                if best is None:
                    raise
                break
            at_limit = True
        progress("compose", attempt, TRIES)
        plan = search.timed(plan)
        best = min(best or plan, plan, key=lambda p: _beside(p, search.budget))
        if search.is_met(plan) or not plan.choices:
            break
        search.learn(plan)
    progress("compose", TRIES, TRIES)
    return best


def _rows(survey: Survey, site: Site) -> dict[str, list[Candidate]]:
    """Form -> its candidates at a site, by cost."""
    rows: dict[str, list[Candidate]] = {}
    for candidate in sorted(survey.options[site.path], key=lambda c: c.cost.macs):
        rows.setdefault(candidate.form, []).append(candidate)
    return rows


def _snapped(survey: Survey, multiple: int) -> Survey:
    """The same, with ranks at the multiples a target likes."""
    bias = survey.fit != "weight"
    options = {
        site.path: [
            c for row in _rows(survey, site).values() for c in snap(site, row, multiple, bias)
        ]
        for site in survey.sites
    }
    return replace(survey, options=options)


def _knots(survey: Survey) -> list[tuple[Site, str, Rank]]:
    """Some ranks of every form at every site, the least and the largest included."""
    knots = []
    for site in survey.sites:
        for form, row in _rows(survey, site).items():
            places = {round(i) for i in np.linspace(0, len(row) - 1, min(KNOTS, len(row)))}
            knots += [(site, form, row[i].rank) for i in sorted(places)]
    return knots


def _faster(survey: Survey, table: LatencyTable) -> dict[str, list[Candidate]]:
    """Per site, the candidates that take less time than it, with that time in their cost.

    Between ranks that were timed the time is interpolated.
    """
    found: dict[str, list[Candidate]] = {}
    for site in survey.sites:
        found[site.path] = []
        for form, row in _rows(survey, site).items():
            known = [c for c in row if table.knows(site, form, c.rank)]
            if not known:  # the target could not run it
                continue
            macs, ms = zip(
                *((c.cost.macs, table.ms(site, form, c.rank)) for c in known), strict=True
            )
            for c in row:
                latency = float(np.interp(c.cost.macs, macs, ms))
                if latency <= FASTER * table.ms(site):
                    cost = TimedCost(*astuple(c.cost), latency=latency)
                    found[site.path].append(replace(c, cost=cost))
    return found


def _choose(
    survey: Survey, budget: Budget, table: LatencyTable, stopwatch: Stopwatch, kept: float
) -> list[Candidate | None]:
    """The best choice if a network saves the part `kept` of what its layers save.

    What is chosen has been timed, not interpolated: if need be it is timed, and chosen anew.
    """
    total = TimedCost(*astuple(survey.dense), latency=stopwatch.whole)
    bounds = budget.bounds(replace(total, latency=stopwatch.dense.ms))
    dense = [TimedCost(*astuple(s.cost), latency=kept * table.ms(s)) for s in survey.sites]
    refused: set[tuple] = set()
    while True:
        options = [
            [
                replace(c, cost=replace(c.cost, latency=kept * c.cost.latency))
                for c in row
                if (site, c.form, c.rank) not in refused
            ]
            for site, row in zip(survey.sites, _faster(survey, table).values(), strict=True)
        ]
        chosen = solve(options, dense, total, bounds)
        ways = [
            (site, c.form, c.rank)
            for site, c in zip(survey.sites, chosen, strict=True)
            if c and not table.knows(site, c.form, c.rank)
        ]
        if not ways:
            return chosen
        table.measure(ways)
        refused.update(way for way in ways if not table.knows(*way))


def _fastest(survey: Survey, table: LatencyTable) -> list[Candidate | None]:
    """The choice that takes the least time by the times of single layers."""
    timed = [
        [c for c in row if table.knows(site, c.form, c.rank)]
        for site, row in zip(survey.sites, _faster(survey, table).values(), strict=True)
    ]
    return [min(row, key=lambda c: c.cost.latency, default=None) for row in timed]


def _without_idle(plan: Plan, search: _Search) -> Plan:
    """The plan without the choices from which the whole network gains no time.

    Tried in groups, those that promise least first; a group that cannot go is halved, down to
    a sixteenth of all: every trial costs a compilation of the whole network.
    """
    least = max(len(plan.choices) // 16, 1)
    group = max(len(plan.choices) // 4, 1)
    while group >= least and plan.choices:
        order = sorted(plan.choices, key=lambda c: c.ms_dense - c.ms)
        idle = {choice.site for choice in order[:group]}
        fewer = tuple(choice for choice in plan.choices if choice.site not in idle)
        trial = plan.model_copy(update={"choices": fewer})
        trial = price(trial, search.survey.seen)
        if _counts_met(trial, search.survey):
            trial = search.timed(trial)
            if _ratio(trial) <= _ratio(plan):
                plan = trial
                continue
        group //= 2
    return plan


def _counts_met(plan: Plan, survey: Survey) -> bool:
    """Whether all bounds of a plan's budget but that of latency are met."""
    bounds = plan.budget.bounds(survey.dense)
    return all(getattr(plan.planned, name) <= bound for name, bound in bounds.items())


def _ratio(plan: Plan) -> float:
    """The part of the original's time that a plan's network takes, as measured."""
    return plan.latency.ms / plan.latency.ms_dense


def _beside(plan: Plan, budget: Budget) -> tuple[bool, float]:
    """How far a plan's measured time is from the budget; any that meets it comes first."""
    gap = _ratio(plan) - budget.latency
    return gap > 0, abs(gap)


def _closest(survey: Survey, table: LatencyTable) -> str:
    """For the slowest layers, the least time that a replacement takes beside the layer."""

    def least(site: Site) -> str:
        ways = [(c.form, c.rank) for c in survey.options[site.path]]
        times = {way: table.ms(site, *way) for way in ways if table.knows(site, *way)}
        if not times:
            return f"{site.path}: none runs"
        form, rank = way = min(times, key=times.get)
        return f"{site.path}: {form} {rank} takes {times[way] / table.ms(site):.2f} of its time"

    slowest = sorted(survey.sites, key=table.ms, reverse=True)[:10]
    return "; ".join(map(least, slowest))
