"""Every way to replace every site, with what it costs and the harm it is predicted to do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..forms import FORMS, Rank, ranks
from ..forms.group_fits import GroupFits
from ..network.calls import Batch
from ..network.outputs import Reference, held_back
from ..network.sites import Site, replacement_cost
from ..plans import Cost, Kind
from ..statistics.curvature import output_curvature
from ..statistics.gathering import gather
from ..statistics.moments import Moments, held_bytes, weight_problems
from ..support.progress import Progress
from ..support.ranks import gathered, share
from ..support.threads import at_once, side_by_side
from .damage import Trial, damage_scale, is_tried, samples_to_try

RANKS = 16  # per form
SAMPLES = (
    16  # of inputs, for each number that a layer reads: as good to choose by as 512 (measured)
)
LARGE = 1152  # weights per output from which a refinement is tried among some channels
REFINED = 0.13  # of a site's multiply-adds: near there a fit is refined as well

Value = TypeVar("Value")


@dataclass(frozen=True)
class Candidate:
    """One way to replace one site: what it costs then and the harm it is predicted to do."""

    site: str
    form: str
    rank: Rank
    cost: Cost
    damage: float


def costs_of(site: Site, bias: bool) -> dict[tuple[str, Rank], Cost]:
    """Form and rank -> cost, for all that make a site cheaper in some way."""
    ways = [(form, rank) for form in site.forms for rank in ranks(form, site.unit, RANKS)]
    return _cheaper(site, ways, bias)


def _cheaper(
    site: Site, ways: Iterable[tuple[str, Rank]], bias: bool
) -> dict[tuple[str, Rank], Cost]:
    costs = {(form, rank): replacement_cost(site, form, rank, bias) for form, rank in ways}
    return {
        way: cost
        for way, cost in costs.items()
        if cost.macs < site.cost.macs or cost.params < site.cost.params
    }


def snap(site: Site, row: Sequence[Candidate], multiple: int, bias: bool) -> list[Candidate]:
    """Candidates of one form of a site, with ranks above `multiple` at the nearest multiples,
    where ranks are numbers of channels (of `separable` they are not).

    The logarithm of the damage is interpolated between theirs, over multiply-adds.
    """
    if row[0].form == "separable":
        return list(row)

    def snapped(rank: int) -> int:
        return rank if rank <= multiple else round(rank / multiple) * multiple

    form, kernel = row[0].form, site.unit
    full = FORMS[form].full_rank(kernel)
    ways: list[tuple[str, Rank]] = []
    for candidate in row:
        if isinstance(candidate.rank, tuple):
            rank: Rank = tuple(map(min, map(snapped, candidate.rank), full))
        else:
            rank = min(snapped(candidate.rank), full or 1)
        ways.append((form, rank))
    row = sorted(row, key=lambda c: c.cost.macs)
    macs, logs = [c.cost.macs for c in row], [math.log(max(c.damage, 1e-30)) for c in row]
    return [
        Candidate(site.path, form, rank, cost, math.exp(np.interp(cost.macs, macs, logs)))
        for (form, rank), cost in _cheaper(site, ways, bias).items()
    ]


def find_candidates(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    kind: Kind,
    seed: int,
    progress: Progress,
    there: nn.Module | None = None,
) -> tuple[dict[str, list[Candidate]], list[str]]:
    """Candidates of every site, from one walk over the images and one backward pass of some.

    Damage is 1/2 tr(G dW S dW^T), the second-order change of the output (see `outputs`),
    with S the second moment of the site's input patches and G that of the output gradients,
    summed over positions: Kronecker-factored curvature (Grosse & Martens 2016). It is scaled
    by what a few candidates do when they are put in and measured on the last images.

    Args:
        there: a converted network, in which gradients are taken; default: in the network itself.

    Returns:
        By path, the candidates, none of sites that hardly any image comes by; and the sites that no
        gradient reaches, whose damage is that to their own output.
    """
    curvature = output_curvature(model, sites, batches, kind, seed, progress, there=there)
    paths = [site.path for site in sites]
    sites = [site for site in sites if site.path in curvature]
    found: dict[str, list[Candidate]] = {}
    trials: dict[str, Trial] = {}

    def judged(
        one: tuple[int, tuple[Site, Moments]],
    ) -> tuple[str, list[Candidate], Trial | None]:
        index, (site, moments) = one
        layer, gain = model.get_submodule(site.path), curvature[site.path].gain
        fits = GroupFits(moments.problems(), site.unit)
        row = site_candidates(site, fits, gain, bias=True)
        if not row or not is_tried(index, len(sites)):
            return site.path, row, None
        return site.path, row, _trial(site, layer, row, fits, gain, moments.mean_x)

    part, parts = share()
    held = {site.path: held_bytes(model.get_submodule(site.path)) for site in sites}
    seen = enumerate(gather(model, sites, batches, seed, samples=SAMPLES))
    with side_by_side() as map_:
        for some in in_lots(seen, held, parts * at_once()):
            some.sort(key=lambda one: -one[1][0].unit.patch)  # the long ones first
            for path, row, trial in map_(judged, some[part::parts]):
                found[path] = row
                if trial:
                    trials[path] = trial
                progress("candidates", min(parts * len(found), len(sites)), len(sites))
            del some[:]  # with the moments, before others are gathered
    found = _of_all(found)
    found = {path: found.get(path, []) for path in paths}
    trials = _of_all(trials)
    tried = [trials[path] for path in paths if path in trials]
    judges = held_back(batches, samples_to_try(sum(site.cost.macs for site in sites)))[1]
    scale = damage_scale(model, tried, Reference(model, judges, kind), progress)
    scaled = {
        path: [replace(c, damage=c.damage * scale) for c in row] for path, row in found.items()
    }
    return scaled, [path for path, seen in curvature.items() if not seen.arrived]


def _of_all(found: dict[str, Value]) -> dict[str, Value]:
    """What each process has found, together."""
    return {path: one for theirs in gathered(found) for path, one in theirs.items()}


def in_lots(
    seen: Iterable[tuple[int, tuple[Site, Moments]]], held: Mapping[str, int], count: int
) -> Iterator[list[tuple[int, tuple[Site, Moments]]]]:
    """Sites with their moments, as many at a time as surely need no more memory than `count` of
    the largest: a few long ones then take their turns beside many short ones.

    Args:
        seen: sites in order, with their numbers.
        held: bytes of moments by path.
    """
    spare = (count - 1) * max(held.values(), default=0)
    some: list[tuple[int, tuple[Site, Moments]]] = []
    for one in seen:
        some.append(one)
        del one  # subtle: it holds moments
        if sum(held[site.path] for _, (site, _) in some) > spare:
            yield some
            some = []
    if some:
        yield some


def _trial(
    site: Site,
    layer: nn.Module,
    row: Sequence[Candidate],
    fits: GroupFits,
    curvature: Tensor,
    mean_x: Tensor,
) -> Trial:
    """What a plan may well choose at a site: the least damage for half of its multiply-adds."""
    halved = [c for c in row if c.cost.macs <= site.cost.macs / 2] or row
    best = min(halved, key=lambda c: c.damage)
    fitted = fits.fit(best.form, best.rank, 0)
    weight = fits.spell(best.form, fitted).to(mean_x)
    gap = weight - torch.stack([problem.target for problem in fits.problems]).to(mean_x)
    shift = (gap @ mean_x.unsqueeze(2)).flatten()
    bias = -shift if layer.bias is None else layer.bias - shift
    return Trial(site.path, weight, bias, fits.damage([f.left for f in fitted], curvature))


def weight_candidates(
    model: nn.Module, sites: Sequence[Site], progress: Progress
) -> dict[str, list[Candidate]]:
    """Candidates judged by the dense weights alone: damage is relative squared weight error."""
    found = {}
    for site in sites:
        problems = weight_problems(model.get_submodule(site.path))
        energy = sum(problem.energy for problem in problems)
        gain = torch.eye(site.kernel[0]).to(problems[0].moment) * 2 / energy
        found[site.path] = site_candidates(site, GroupFits(problems, site.unit), gain, bias=False)
        progress("candidates", len(found), len(sites))
    return found


def site_candidates(site: Site, fits: GroupFits, curvature: Tensor, bias: bool) -> list[Candidate]:
    """Every candidate of one site that is cheaper than it in multiply-adds or parameters.

    What refinement takes off the logarithm of the damage is looked at where a form has few
    terms, and told from there for all ranks; of a large layer, among some of its channels (on a
    29-layer network, of 256 channels half and a quarter told it to 0.1 but for one layer of 12);
    not where the most it has been seen to gain would not bring a form to where another one starts.
    """
    costs = costs_of(site, bias)
    share = {way: cost.macs / site.cost.macs for way, cost in costs.items()}
    started: dict[tuple[str, Rank], float] = {}
    for name in site.forms:
        if wanted := [rank for form, rank in costs if form == name]:
            for rank, lefts in zip(wanted, fits.start_errors(name, wanted), strict=True):
                started[name, rank] = fits.damage(lefts, curvature)

    def gain(way: tuple[str, Rank]) -> float:
        """How much refinement lowers the logarithm of the damage."""
        form = FORMS[way[0]]
        others = [started[w] for w in started if w[0] != way[0] and share[w] <= share[way]]
        if form.LEAST_LEFT * started[way] >= min(others, default=math.inf):
            return 0.0
        before, some, rank, mind = started[way], fits, way[1], curvature
        step = -(-site.unit.patch // LARGE)
        if step > 1 or form.TRIAL_OUTPUTS:
            some, kept = fits.thinned(step, form.TRIAL_OUTPUTS)
            if full := form.full_rank(site.unit):
                rank = max(rank * form.full_rank(some.kernel) // full, 1)
            mind = curvature[kept][:, kept]
            before = some.damage(some.start_errors(way[0], [rank])[0], mind)
        left = some.damage([f.left for f in some.fit(way[0], rank, form.TRIAL_STEPS)], mind)
        return math.log(left / before) if 0 < left < before else 0.0

    found = []
    for name in dict.fromkeys(form for form, _ in started):
        ways = [way for way in started if way[0] == name]
        near = min(ways, key=lambda way: abs(share[way] - REFINED))
        gained = gain(near) if FORMS[name].TRIAL_STEPS else 0.0
        for way in ways:
            grown = share[way] / share[near] if gained and FORMS[name].GROWS else 1.0
            damage = started[way] * math.exp(gained * grown)
            found.append(Candidate(site.path, *way, costs[way], damage))
    return found
