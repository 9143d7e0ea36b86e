"""The choice is the best there is, and an impossible one is refused with the least possible."""

from __future__ import annotations

import ctypes
import itertools
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convswap.errors import BudgetError
from convswap.network.cost import Cost, TimedCost
from convswap.planning.candidates import Candidate
from convswap.planning.knapsack import pareto, solve


def candidate(site: str, macs: int, params: int, damage: float) -> Candidate:
    return Candidate(site, "channel", 1, Cost(macs, params, 4 * params), damage)


def reached(choice, dense: list[Cost], total: Cost) -> Cost:
    """What the whole network costs under a choice."""
    for before, chosen in zip(dense, choice, strict=True):
        if chosen:
            total = total - before + chosen.cost
    return total


def meets(cost: Cost, bounds: dict[str, float]) -> bool:
    return all(getattr(cost, name) <= bound for name, bound in bounds.items())


def best_damage(options, dense: list[Cost], total: Cost, bounds: dict[str, float]) -> float | None:
    """Brute force: the least summed damage within the bounds; None if there is no choice."""
    damages = [
        sum(c.damage for c in choice if c)
        for choice in itertools.product(*([*row, None] for row in options))
        if meets(reached(choice, dense, total), bounds)
    ]
    return min(damages, default=None)


def check_best(instance, **tolerance: float) -> None:
    """A choice is one candidate or none per site, within the bounds, and no other is better;
    where brute force finds none, it is refused."""
    options, dense, total, bounds = instance
    best = best_damage(options, dense, total, bounds)
    if best is None:
        with pytest.raises(BudgetError):
            solve(*instance)
        return
    choice = solve(*instance)
    assert len(choice) == len(options)
    assert all(c is None or c in row for c, row in zip(choice, options, strict=True))
    assert meets(reached(choice, dense, total), bounds)
    assert sum(c.damage for c in choice if c) == pytest.approx(best, **tolerance)


@st.composite
def instances(draw):
    """A few sites with a few candidates each, and bounds on one or several costs."""
    number = st.integers(1, 200)
    options, dense = [], []
    for index in range(draw(st.integers(1, 4))):
        dense.append(Cost(100 + draw(number), 100 + draw(number), 0))
        row = draw(st.lists(st.tuples(number, number, st.integers(0, 50)), max_size=4))
        options.append([candidate(f"site{index}", m, p, d / 10) for m, p, d in row])
    dense = [Cost(c.macs, c.params, 4 * c.params) for c in dense]
    total = sum(dense, Cost(draw(number), draw(number), 0))
    total = Cost(total.macs, total.params, 4 * total.params)
    names = draw(st.sets(st.sampled_from(["macs", "params", "bytes"]), min_size=1))
    share = st.integers(20, 100)
    return options, dense, total, {n: getattr(total, n) * draw(share) // 100 for n in sorted(names)}


@given(instances())
def test_choice_is_the_best_of_all(instance):
    check_best(instance, abs=1e-6)


DENSE = [Cost(100, 10, 40), Cost(100, 50, 200)]
TOTAL = Cost(250, 80, 320)
OPTIONS = [
    [candidate("a", 20, 9, 1.0), candidate("a", 60, 5, 0.5)],
    [candidate("b", 50, 10, 2.0), candidate("b", 90, 40, 0.1)],
]


@pytest.mark.parametrize(
    ("bounds", "picked"),
    [
        ({"macs": 250}, [None, None]),
        ({"macs": 249}, [None, 1]),
        ({"macs": 210}, [1, None]),
        ({"macs": 200}, [1, 1]),
        ({"macs": 170}, [0, None]),
        ({"macs": 120}, [0, 0]),
        ({"params": 40}, [None, 0]),
        ({"bytes": 160}, [None, 0]),
        ({"macs": 165, "params": 40}, [1, 0]),
    ],
)
def test_bounds_are_met_with_the_least_damage(bounds: dict[str, float], picked: list[int | None]):
    wanted = [row[i] if i is not None else None for row, i in zip(OPTIONS, picked, strict=True)]
    assert solve(OPTIONS, DENSE, TOTAL, bounds) == wanted


def test_bound_is_met_exactly_in_a_large_network():
    """One multiply-add too many is too many, though a solver works with tolerances."""
    whole = 4_000_000_000
    options = [
        [candidate(f"site{i}", 100_000_001, 10, 0.1 + 0.01 * i), candidate(f"site{i}", 1, 1, 9.0)]
        for i in range(20)
    ]
    dense = [Cost(200_000_000, 20, 80)] * 20
    total = Cost(whole, 400, 1600)
    bounds = {"macs": whole / 2}  # twenty times 100,000,000 saved, less one each
    assert reached(solve(options, dense, total, bounds), dense, total).macs <= whole / 2


def test_impossible_bound_is_refused_with_the_least_reachable():
    with pytest.raises(BudgetError) as caught:
        solve(OPTIONS, DENSE, TOTAL, {"macs": 0.4 * 250})
    assert "macs 0.4 asked, 0.480 is the least these forms allow" in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("name", ["macs", "params", "bytes"])
def test_least_reachable_can_be_reached(name: str):
    with pytest.raises(BudgetError) as caught:
        solve(OPTIONS, DENSE, TOTAL, {name: 1})
    least = float(re.search(r"([\d.]+) is the least", str(caught.value))[1])
    whole = getattr(TOTAL, name)
    cost = reached(solve(OPTIONS, DENSE, TOTAL, {name: least * whole}), DENSE, TOTAL)
    assert getattr(cost, name) > (least - 0.001) * whole


def test_bounds_that_are_only_possible_one_by_one_are_refused():
    options = [[candidate("a", 10, 100, 1.0), candidate("a", 100, 10, 1.0)]]
    dense, total = [Cost(100, 100, 400)], Cost(100, 100, 400)
    assert solve(options, dense, total, {"macs": 50}) == [options[0][0]]
    assert solve(options, dense, total, {"params": 50}) == [options[0][1]]
    with pytest.raises(BudgetError, match="no choice meets all bounds at once"):
        solve(options, dense, total, {"macs": 50, "params": 50})


def test_harmless_candidates_are_chosen_where_needed():
    options = [[candidate("a", 10, 10, 0.0)]]
    dense, total = [Cost(100, 100, 400)], Cost(100, 100, 400)
    assert solve(options, dense, total, {"macs": 50}) == options[0]


# --- precision ------------------------------------------------------------------------------


@st.composite
def wide_instances(draw):
    """As above, with damages over 12 orders of magnitude and fractions of a millisecond."""
    options, dense, total, bounds = draw(instances())
    exponent = st.floats(-12, 0)
    times = st.floats(0.01, 0.9)

    def timed(cost: Cost, latency: float) -> TimedCost:
        return TimedCost(cost.macs, cost.params, cost.bytes, latency)

    wide = [
        [
            Candidate(c.site, c.form, c.rank, timed(c.cost, draw(times)), 10 ** draw(exponent))
            for c in row
        ]
        for row in options
    ]
    total = timed(total, len(dense) + 0.5)
    bounds["latency"] = draw(st.floats(0.4, 1)) * total.latency
    return wide, [timed(cost, 1.0) for cost in dense], total, bounds


@given(wide_instances())
def test_damages_of_every_size_are_weighed(instance):
    check_best(instance, rel=1e-3)


@pytest.mark.parametrize("tiny", [1e-6, 1e-9, 1e-12, 1e-20])
def test_one_ruinous_candidate_does_not_hide_the_rest(tiny):
    """The damages that matter are below a solver's tolerance of the largest."""
    rows = [[candidate(f"site{i}", 40, 40, (i + 1) * tiny)] for i in range(8)]
    rows[3].append(candidate("site3", 1, 1, 1.0))
    dense, total = [Cost(100, 100, 400)] * 8, Cost(800, 800, 3200)
    wanted = [row[0] if i < 3 else None for i, row in enumerate(rows)]
    assert solve(rows, dense, total, {"macs": 800 - 180}) == wanted


# --- the ones worth choosing from -----------------------------------------------------------

CANDIDATES = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9)), max_size=12
).map(lambda rows: [candidate("a", m, p, float(d)) for m, p, d in rows])
NAMES = st.sets(st.sampled_from(["macs", "params", "bytes"])).map(sorted)


def values(c: Candidate, names: list[str]) -> list[float]:
    return [c.damage, *(getattr(c.cost, name) for name in names)]


def beats(a: Candidate, b: Candidate, names: list[str]) -> bool:
    """Whether one candidate is nowhere worse than another."""
    return all(x <= y for x, y in zip(values(a, names), values(b, names), strict=True))


@given(CANDIDATES, NAMES)
def test_no_candidate_of_a_front_beats_another(candidates, names):
    front = pareto(candidates, names)
    assert not any(beats(a, b, names) for a, b in itertools.permutations(front, 2))


@given(CANDIDATES, NAMES)
def test_every_candidate_is_beaten_by_one_of_the_front(candidates, names):
    front = pareto(candidates, names)
    assert all(c in candidates for c in front)
    assert all(any(beats(kept, c, names) for kept in front) for c in candidates)


@given(CANDIDATES, NAMES, st.randoms())
def test_a_front_is_the_same_in_any_order(candidates, names, random):
    shuffled = random.sample(candidates, len(candidates))
    front, other = ([values(c, names) for c in pareto(cs, names)] for cs in (candidates, shuffled))
    assert front == other
    assert pareto(pareto(candidates, names), names) == pareto(candidates, names)


# --- the solver itself ----------------------------------------------------------------------


def chatty_instance(seed: int):
    """Random sites; the seeds below are those at which HiGHS 1.12 prints a line."""
    r = random.Random(seed)
    dense = [Cost(r.randint(10**5, 10**8), 1, 4) for _ in range(8)]
    options = [
        [candidate("a", int(d.macs * r.random()), 1, 10 ** r.uniform(-12, 0)) for _ in range(8)]
        for d in dense
    ]
    total = sum(dense, Cost(0, 0, 0))
    return options, dense, total, {"macs": r.uniform(0.25, 0.9) * total.macs}


@pytest.mark.parametrize("seed", [726, 1903, 3194])
def test_the_solver_prints_nothing(seed, capfd):
    solve(*chatty_instance(seed))
    ctypes.pythonapi.fflush(None)
    assert capfd.readouterr().out == ""


def test_running_out_of_time_is_not_taken_for_a_budget_out_of_reach(monkeypatch):
    class Nothing:
        status, x = 1, None  # SciPy's for a time limit that was reached before any choice was found

    monkeypatch.setattr("scipy.optimize.milp", lambda *args, **settings: Nothing())
    dense = Cost(100, 10, 40)
    with pytest.raises(BudgetError, match="no choice was found within 60 s"):
        solve([[candidate("a", 50, 5, 1.0)]], [dense], dense, {"macs": 60})
