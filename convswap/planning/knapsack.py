"""The choice itself: a multiple-choice knapsack, solved exactly by HiGHS."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..errors import BudgetError
from ..plans import Cost
from ..support.quiet import silent_stdout
from .candidates import Candidate

SECONDS = 60  # at most, for one run of the solver
OUT_OF_TIME = 1  # its status then


def solve(
    options: Sequence[Sequence[Candidate]],
    dense: Sequence[Cost],
    total: Cost,
    bounds: Mapping[str, float],
) -> list[Candidate | None]:
    """Choose per site one of its candidates, or None to keep the layer.

    Minimises the summed damage with every bound met.

    Args:
        options: candidates per site.
        dense: cost of each site as it is.
        total: cost of the whole network as it is.
        bounds: by field of `Cost`, the most the whole network may cost afterwards.

    Raises:
        BudgetError: no choice meets the bounds; the message says the least reachable.
    """
    check_reachable([[c.cost for c in row] for row in options], dense, total, bounds)
    options = [pareto(row, bounds) for row in options]
    chosen = _solve(
        options, dense, total, bounds, max([c.damage for row in options for c in row], default=1.0)
    )
    while True:
        # subtle: the solver's tolerances are absolute, so the damages that matter must not be
        # tiny beside the largest; what alone exceeds a known total is in no better choice
        reached = sum(c.damage for c in chosen if c)
        if not reached:
            return chosen
        fewer = [[c for c in row if c.damage <= reached] for row in options]
        chosen = _solve(fewer, dense, total, bounds, reached)
        if sum(c.damage for c in chosen if c) > 0.1 * reached:
            return chosen


def _solve(
    options: Sequence[Sequence[Candidate]],
    dense: Sequence[Cost],
    total: Cost,
    bounds: Mapping[str, float],
    scale: float,
) -> list[Candidate | None]:
    """One run of the solver, with damages in units of `scale`."""
    flat = [(i, c) for i, row in enumerate(options) for c in (*row, None)]
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    damage = np.array([c.damage if c else 0.0 for _, c in flat])
    owner = np.array([i for i, _ in flat])
    one_each = coo_array((np.ones(len(flat)), (owner, np.arange(len(flat)))))
    constraints = []
    for name, bound in bounds.items():
        whole = getattr(total, name)
        saved = np.array(
            [getattr(dense[i] - c.cost, name) if c else 0 for i, c in flat], dtype=float
        )
        constraints.append((saved[None] / whole, 1 - bound / whole))
    for margin in (0.0, 2e-6):  # HiGHS may overstep a bound by its tolerance of 1e-6
        with silent_stdout():
            result = milp(
                1e3 * damage / (scale or 1.0),
                constraints=[
                    LinearConstraint(one_each, 1, 1),
                    *(LinearConstraint(saved, least + margin) for saved, least in constraints),
                ],
                integrality=np.ones(len(flat)),
                bounds=Bounds(0, 1),
                options={"mip_rel_gap": 1e-4, "time_limit": SECONDS},
            )
        if result.x is None and result.status == OUT_OF_TIME:
            raise BudgetError(
                f"no choice was found within {SECONDS} s", do="ask for a little more or less"
            )
        if result.x is None:
            break
        chosen = [flat[i] for i in np.flatnonzero(result.x > 0.5)]
        if all(
            getattr(total, name) - sum(getattr(dense[i] - c.cost, name) for i, c in chosen if c)
            <= bound
            for name, bound in bounds.items()
        ):
            return [c for _, c in chosen]
    raise BudgetError("no choice meets all bounds at once", do="loosen one of them")


def check_reachable(
    costs: Sequence[Sequence[Cost]],
    dense: Sequence[Cost],
    total: Cost,
    bounds: Mapping[str, float],
) -> None:
    """Raise `BudgetError`, naming the least reachable, where one bound alone cannot be met.

    Args:
        costs: per site, of all that could stand there; the rest as for `solve`.
    """
    for name, bound in bounds.items():
        whole = getattr(total, name)
        saved = sum(
            max([0, *(getattr(site, name) - getattr(cost, name) for cost in row)])
            for site, row in zip(dense, costs, strict=True)
        )
        if whole - saved > bound:
            raise BudgetError(
                f"budget cannot be met: {name} {bound / whole:.3g} asked, "
                f"{math.ceil(1e3 * (whole - saved) / whole) / 1e3:.3f} is the least these "
                f"forms allow{', by the times of single layers' * (name == 'latency')}",
                do=f"raise {name} to that or more",
            )


def pareto(candidates: Sequence[Candidate], names: Iterable[str]) -> list[Candidate]:
    """Those that no other beats or equals in damage and in all the costs named, at once."""

    def key(c: Candidate) -> tuple[float, ...]:
        return c.damage, *(getattr(c.cost, name) for name in names)

    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=key):
        if not any(all(a <= b for a, b in zip(key(k), key(candidate), strict=True)) for k in kept):
            kept.append(candidate)
    return kept
