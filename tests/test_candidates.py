"""Candidates of one site: cheaper than it, and about as harmful as a fit of each would find."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from helpers import moment
from torch import Tensor, nn

from convswap import find_sites
from convswap.forms import FORMS, Kernel
from convswap.forms.group_fits import GroupFits
from convswap.forms.least_squares import LeastSquares
from convswap.network.sites import Site, replacement_cost
from convswap.planning.candidates import Candidate, costs_of, site_candidates, snap

KERNEL = (16, 12, 3, 3)
FACTOR = 1.6


def candidates_of(site: Site, problem: LeastSquares, curvature: Tensor) -> list[Candidate]:
    return site_candidates(site, GroupFits([problem], site.unit), curvature, bias=True)


def layer(out: int, in_: int, size: int):
    """The site of one convolution, and the convolution."""
    conv = nn.Conv2d(in_, out, size, padding=size // 2)
    (site,), _ = find_sites(nn.Sequential(conv), (in_, 8, 8))
    return site, conv


def problem_of(conv: nn.Conv2d, seed: int) -> LeastSquares:
    """The fit to a convolution under random moments."""
    weight = conv.weight.detach().flatten(1).double()
    return LeastSquares(weight, moment(weight.shape[1], seed, spread=0.5))


def surveyed(seed: int = 0):
    """Site, problem, curvature and candidates of a random layer."""
    site, conv = layer(*KERNEL[:3])
    problem = problem_of(conv, seed)
    curvature = moment(KERNEL[0], seed + 1, spread=0.5)
    return (
        site,
        problem,
        curvature,
        candidates_of(site, problem, curvature),
    )


def fitted(found: Candidate, problem: LeastSquares, curvature, steps: int) -> float:
    """The damage of a candidate, by a fit of its own."""
    form, kernel = FORMS[found.form], Kernel(*KERNEL)
    gap = form.spell(form.fit(problem, kernel, found.rank, steps).weights, kernel) - problem.target
    return 0.5 * ((curvature @ gap @ problem.moment) * gap).sum().item()


def rows(found: list[Candidate]) -> dict[str, list[Candidate]]:
    """Form -> its candidates, by cost."""
    ordered = sorted(found, key=lambda c: c.cost.macs)
    return {form: [c for c in ordered if c.form == form] for form in FORMS}


def test_every_way_that_is_cheaper_is_a_candidate():
    site, _, _, found = surveyed()
    assert {(c.form, c.rank): c.cost for c in found} == costs_of(site, bias=True)
    assert {c.site for c in found} == {site.path}
    assert {c.form for c in found} == set(FORMS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", [0, 10])
def test_damage_is_close_to_that_of_a_refined_fit(form, seed):
    """Within `FACTOR` of a fit as long as those it comes from; `bottleneck`, which refinement
    changes most, within `FACTOR` up to half of its ranks, and within twice that above."""
    _, problem, curvature, found = surveyed(seed)
    row = rows(found)[form]
    for index, c in enumerate(row):
        wanted = fitted(c, problem, curvature, FORMS[form].TRIAL_STEPS)
        factor = 2 * FACTOR if form == "bottleneck" and 2 * index > len(row) else FACTOR
        assert wanted / factor < c.damage + 1e-12 < wanted * factor + 2e-12, c.rank


@pytest.mark.parametrize("form", [name for name in FORMS if not FORMS[name].TRIAL_STEPS])
def test_damage_of_a_form_that_is_not_refined_is_that_of_its_fit(form):
    _, problem, curvature, found = surveyed()
    for c in found:
        if c.form == form:
            wanted = fitted(c, problem, curvature, 0)
            assert c.damage == pytest.approx(wanted, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_damage_falls_with_the_rank(seed):
    for form, row in rows(surveyed(seed)[-1]).items():
        assert all(a.damage >= b.damage for a, b in pairwise(row)), form


@pytest.mark.parametrize("kernel", [(8, 1, 3), (1, 8, 3), (2, 1, 3)])
def test_a_form_of_which_no_rank_is_cheaper_is_left_out(kernel):
    site, conv = layer(*kernel)
    found = candidates_of(site, problem_of(conv, 0), torch.eye(kernel[0]))
    assert {(c.form, c.rank) for c in found} == set(costs_of(site, bias=True))
    assert len({c.form for c in found}) < len(site.forms)


def test_a_layer_of_zeros_has_harmless_candidates():
    site, conv = layer(*KERNEL[:3])
    nn.init.zeros_(conv.weight)
    found = candidates_of(site, problem_of(conv, 0), torch.eye(KERNEL[0]))
    assert all(math.isfinite(c.damage) and 0 <= c.damage < 1e-20 for c in found)


# --- ranks at multiples -------------------------------------------------------------------------


@pytest.mark.parametrize("form", [form for form in FORMS if form != "separable"])
@pytest.mark.parametrize("multiple", [4, 8])
def test_snapped_ranks_are_multiples_and_cheaper_than_the_layer(form, multiple):
    site, _, _, found = surveyed()
    row = rows(found)[form]
    snapped = snap(site, row, multiple, bias=True)
    assert snapped
    for candidate in snapped:
        full = FORMS[form].full_rank(Kernel(*KERNEL))
        for rank, limit in zip(components(candidate.rank), components(full or 1), strict=True):
            assert rank <= multiple or rank % multiple == 0 or rank == limit
        assert candidate.cost == costs_of_one(site, candidate)
        assert candidate.cost.macs < site.cost.macs or candidate.cost.params < site.cost.params


def components(rank) -> tuple[int, ...]:
    return rank if isinstance(rank, tuple) else (rank,)


def costs_of_one(site, candidate):
    return replacement_cost(site, candidate.form, candidate.rank, bias=True)


@pytest.mark.parametrize("form", FORMS)
def test_damage_between_ranks_is_between_theirs(form):
    site, _, _, found = surveyed()
    row = rows(found)[form]
    for candidate in snap(site, row, 8, bias=True):
        less = [c.damage for c in row if c.cost.macs <= candidate.cost.macs] or [row[0].damage]
        more = [c.damage for c in row if c.cost.macs >= candidate.cost.macs] or [row[-1].damage]
        low, high = sorted([less[-1], more[0]])
        assert low * (1 - 1e-9) <= candidate.damage <= high * (1 + 1e-9)


def test_a_rank_that_is_no_number_of_channels_stays():
    site, _, _, found = surveyed()
    row = rows(found)["separable"]
    assert snap(site, row, 2, bias=True) == row


def test_a_multiple_of_one_changes_nothing():
    site, _, _, found = surveyed()
    for row in rows(found).values():
        again = snap(site, row, 1, bias=True)
        assert [(c.rank, c.cost) for c in again] == [(c.rank, c.cost) for c in row]
        assert [c.damage for c in again] == pytest.approx([c.damage for c in row])
