"""Cost against quality: one look at the layers, many budgets, real measurements."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ..errors import BudgetError, ConvswapError
from ..network.cost import count
from ..planning import Survey
from ..plans import Budget, Plan
from ..record import record_of
from ..runtimes import Target, target_of
from ..support.figures import score
from ..support.files import FRONTIER, new_file
from ..support.progress import Progress, silent
from ..support.ranks import led
from ..surgery.convert import convert
from ..timing import measure
from . import pictures

Quality = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Point:
    """One converted network of a frontier.

    Attributes:
        macs_kept: fraction of the dense network's multiply-adds.
        score: what `quality` found, as one number: percent, higher is better.
        ms: median milliseconds of one image on `target`, timed beside all others.
        spread: interquartile range of these times over their median.
        target: name of what ran it.
    """

    macs_kept: float
    score: float
    ms: float
    target: str
    figures: dict[str, float]
    plan: Plan | None = field(repr=False)
    spread: float = 0.0


def sweep(
    survey: Survey,
    batches: Iterable[Tensor | tuple],
    budgets: Sequence[Budget],
    quality: Quality,
    *,
    target: Target | None = None,
    progress: Progress = silent,
) -> list[Point]:
    """Convert at every budget and measure each network; the dense one comes first.

    Budgets beyond reach are left out.

    Args:
        quality: measures a network, as `target` computes it: `accuracy` or `fidelity` on images
            of your choice.
        target: what runs them; default: PyTorch eager.

    Raises:
        BudgetError: no budget at all can be met.
    """
    batches = list(batches)
    networks, plans = {"dense": survey.model}, {}
    for done, budget in enumerate(budgets):
        try:
            plan = survey.plan(budget)
        except BudgetError:
            continue
        finally:
            progress("sweep", done + 1, len(budgets))
        name = f"{plan.planned.macs / plan.dense.macs:.4f}"
        networks[name] = convert(survey.model, plan, batches)
        plans[name] = record_of(networks[name]).plans[-1]
    if not plans:
        raise BudgetError("none of the budgets can be met", do="ask for more to be kept")
    target = target or target_of(survey.model)
    example = survey.seen.example
    taken = measure(networks, example, seconds=1.0, target=target)
    points = []
    for name, network in networks.items():
        figures, time = quality(target.computed(network, batches)), taken[name]
        kept = count(network, example).macs / survey.dense.macs
        points.append(
            Point(kept, score(figures), time.ms, target.name, figures, plans.get(name), time.spread)
        )
    return sorted(points, key=lambda point: -point.macs_kept)


def smallest_within(
    survey: Survey,
    batches: Iterable[Tensor | tuple],
    max_drop: float,
    quality: Quality,
    *,
    tolerance: float = 0.02,
    progress: Progress = silent,
) -> tuple[nn.Module, Plan]:
    """The network with the fewest multiply-adds that loses at most `max_drop` percent points.

    Bisection over budgets, each tried for real.

    Args:
        tolerance: how close to the limit to go, in fractions of the dense multiply-adds.

    Raises:
        ConvswapError: even the mildest conversion loses more.
    """
    batches = list(batches)
    floor = led(lambda: score(quality(survey.model))) - max_drop
    low, high, best, tried = 0.0, 1.0, None, 0
    while high - low > tolerance:
        middle = (low + high) / 2
        try:
            plan = survey.plan(Budget(macs=middle))
            small = convert(survey.model, plan, batches) if plan.choices else survey.model
            reached = led(lambda network=small: score(quality(network)) >= floor)
        except BudgetError:
            reached = False
        tried += 1
        progress("bisect", tried, 6)
        if not reached:
            low = middle
        else:
            high = middle
            best = (small, record_of(small).plans[-1]) if plan.choices else best
    if best is None:
        raise ConvswapError(
            f"no conversion stays within {max_drop} points", do="allow more, and distil afterwards"
        )
    return best


def knee(points: Sequence[Point]) -> Point:
    """The point furthest above the line from the cheapest to the dearest (Satopaa et al. 2011)."""
    cheap, dear = points[-1], points[0]
    width = (dear.macs_kept - cheap.macs_kept) or 1.0
    height = (dear.score - cheap.score) or 1.0

    def above(point: Point) -> float:
        return (point.score - cheap.score) / height - (point.macs_kept - cheap.macs_kept) / width

    return max(points, key=above)


def budgets(points: int, least: float) -> list[Budget]:
    """So many budgets of multiply-adds, evenly apart as ratios, from 0.9 down to `least`."""
    return [Budget(macs=float(share)) for share in np.geomspace(0.9, least, points)]


def save_frontier(points: Sequence[Point], folder: str | Path) -> list[dict[str, object]]:
    """Write `frontier.json` and the picture `frontier.png` into a folder; what the first holds."""
    rows = [
        asdict(point) | {"plan": point.plan and point.plan.model_dump(mode="json")}
        for point in points
    ]
    with new_file(Path(folder) / FRONTIER) as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    pictures.draw_frontier(points, knee(points), Path(folder) / "frontier.png")
    return rows
