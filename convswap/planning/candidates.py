"""Every way to replace every site, with what it costs and the harm it is predicted to do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..forms import FORMS, Form, Kernel, Rank, ranks
from ..forms.least_squares import LeastSquares
from ..network.calls import Batch
from ..network.outputs import Reference, held_back
from ..network.sites import Site, replacement_cost
from ..plans import Cost, Kind
from ..statistics.curvature import output_curvature
from ..statistics.moments import gather, weight_problem
from ..support.progress import Progress
from .damage import Trial, damage_scale, is_tried

RANKS = 16  # per form
STARTED = 0, 3, 7, 11, 15  # ranks that are fitted in closed form; damage is interpolated between
REFINED = 3, 7  # ranks that are refined as well


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
    ways = [
        (form, rank) for form in site.forms for rank in ranks(form, Kernel(*site.kernel), RANKS)
    ]
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

    form, kernel = row[0].form, Kernel(*site.kernel)
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
) -> tuple[dict[str, list[Candidate]], list[str]]:
    """Candidates of every site, from one walk over the images and one backward pass of some.

    Damage is 1/2 tr(G dW S dW^T), the second-order change of the output (see `outputs`),
    with S the second moment of the site's input patches and G that of the output gradients,
    summed over positions: Kronecker-factored curvature (Grosse & Martens 2016). It is scaled
    by what a few candidates do when they are put in and measured on the last images.

    Returns:
        By path, the candidates; and the sites that no gradient reaches, whose damage is that to
        their own output.
    """
    curvature = output_curvature(model, sites, batches, kind, seed, progress)
    found: dict[str, list[Candidate]] = {}
    trials: list[Trial] = []
    for site, moments in gather(model, sites, batches, seed):
        conv, gain = model.get_submodule(site.path), curvature[site.path].gain
        problem = moments.problem(conv.weight.detach())
        row = site_candidates(site, problem, gain, bias=True)
        if row and is_tried(len(found), len(sites)):
            trials.append(_trial(site, conv, row, problem, gain, moments.mean_x))
        found[site.path] = row
        progress("candidates", len(found), len(sites))
    reference = Reference(model, held_back(batches), kind)
    scale = damage_scale(model, trials, reference, progress)
    scaled = {
        path: [replace(c, damage=c.damage * scale) for c in row] for path, row in found.items()
    }
    return scaled, [path for path in found if not curvature[path].arrived]


def _trial(
    site: Site,
    conv: nn.Conv2d,
    row: Sequence[Candidate],
    problem: LeastSquares,
    curvature: Tensor,
    mean_x: Tensor,
) -> Trial:
    """What a plan may well choose at a site: the least damage for half of its multiply-adds."""
    halved = [c for c in row if c.cost.macs <= site.cost.macs / 2] or row
    best, kernel = min(halved, key=lambda c: c.damage), Kernel(*site.kernel)
    form = FORMS[best.form]
    weight = form.spell(form.fit(problem, kernel, best.rank, 0), kernel)
    gap = weight - problem.target
    shift = gap.to(mean_x) @ mean_x
    bias = -shift if conv.bias is None else conv.bias - shift
    return Trial(site.path, weight, bias, _damage(gap, problem, curvature))


def _damage(gap: Tensor, problem: LeastSquares, curvature: Tensor) -> float:
    """Of a change of the kernel, `[out, D]`."""
    return 0.5 * ((curvature.to(gap) @ gap @ problem.moment) * gap).sum().item()


def weight_candidates(
    model: nn.Module, sites: Sequence[Site], progress: Progress
) -> dict[str, list[Candidate]]:
    """Candidates judged by the dense weights alone: damage is relative squared weight error."""
    found = {}
    for site in sites:
        problem = weight_problem(model.get_submodule(site.path))
        gain = torch.eye(site.kernel[0]).to(problem.moment) * 2 / problem.energy
        found[site.path] = site_candidates(site, problem, gain, bias=False)
        progress("candidates", len(found), len(sites))
    return found


def site_candidates(
    site: Site, problem: LeastSquares, curvature: Tensor, bias: bool
) -> list[Candidate]:
    """Every candidate of one site that is cheaper than it in multiply-adds or parameters.

    The logarithm of the damage is smooth in the rank: it is found at some ranks and
    interpolated. What refinement takes off it grows in proportion to the rank (measured on
    layers of 16 to 512 channels), so two small ranks tell it for all.
    """
    kernel, costs = Kernel(*site.kernel), costs_of(site, bias)
    curvature = curvature.to(problem.moment)
    found = []
    for name in site.forms:
        form = FORMS[name]
        wanted = [rank for form_, rank in costs if form_ == name]
        if not wanted:
            continue

        def log_damage(index: int, steps: int, form: Form = form, wanted: list = wanted) -> float:
            gap = form.spell(form.fit(problem, kernel, wanted[index], steps), kernel)
            gap -= problem.target
            return math.log(max(_damage(gap, problem, curvature), 1e-30))

        last = len(wanted) - 1
        started = {i: log_damage(i, 0) for i in sorted({*(min(i, last) for i in STARTED), last})}
        macs = np.array([costs[name, rank].macs for rank in wanted])
        logs = np.interp(range(len(wanted)), list(started), list(started.values()))
        if form.TRIAL_STEPS:
            refined = sorted({min(i, last) for i in REFINED})
            gains = [log_damage(i, form.TRIAL_STEPS) - started[i] for i in refined]
            line = np.polyfit(macs[refined] / macs[-1], gains, len(refined) - 1)
            logs += np.minimum(np.polyval(line, macs / macs[-1]), 0)
        found += [
            Candidate(site.path, name, rank, costs[name, rank], math.exp(log))
            for rank, log in zip(wanted, logs, strict=True)
        ]
    return found
