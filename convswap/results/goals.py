"""What to reach, whichever way it was said: a budget, the most quality to lose, or a plan."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from ..planning import plan, survey
from ..plans import Budget, Drop, Fit, Goal, Kind, Layers
from ..record import record_of
from ..runtimes import Target
from ..support.progress import Progress, silent
from ..surgery.convert import convert
from .frontier import Quality, smallest_within


def reach(
    model: nn.Module,
    goal: Goal,
    batches: Iterable[Tensor | tuple],
    *,
    fit: Fit,
    output: Kind | None = None,
    layers: Layers = Layers(),
    target: Target | None = None,
    batch: int = 1,
    quality: Quality | None = None,
    seed: int = 0,
    cache: Path | None = None,
    progress: Progress = silent,
) -> nn.Module:
    """A converted copy of a network that reaches a goal; its record holds the plan.

    Costs are counted at the input size the network is known to read, else at the batches'.

    Args:
        quality: what a `Drop` is judged by; not needed for other goals.
        batches, fit, output, layers, target, batch, seed, cache: as for `plan`.

    Raises:
        BudgetError, ConversionError, PlanError: as for `plan` and `convert`.
        ConvswapError: every conversion loses more than is allowed.
    """
    known = record_of(model).preprocess
    input_size = None if known is None else known.input_size
    if isinstance(goal, Drop):
        seen = survey(
            model, batches, fit=fit, output=output, layers=layers, input_size=input_size,
            seed=seed, cache=cache, progress=progress,
        )  # fmt: skip
        small, _ = smallest_within(seen, batches, goal.points, quality, progress=progress)
        return small
    if isinstance(goal, Budget):
        chosen = plan(
            model, batches, goal, fit=fit, output=output, layers=layers, input_size=input_size,
            target=target, batch=batch, seed=seed, cache=cache, progress=progress,
        )  # fmt: skip
    else:
        folds = goal.fold_norms or layers.fold_norms
        how = {"fit": fit, "output": output or goal.output, "fold_norms": folds}
        chosen = goal.model_copy(update=how)
    return convert(model, chosen, batches, progress=progress)
