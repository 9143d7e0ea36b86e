"""What to choose so that a network meets a budget of counts, of time, or of both."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from ..errors import PlanError
from ..plans import Budget, Fit, Kind, Plan
from ..runtimes import Target, target_of
from ..support.progress import Progress, silent
from .by_time import meet_latency
from .surveying import Survey, survey


def plan(
    model: nn.Module,
    batches: Iterable[Tensor | tuple] = (),
    budget: Budget | None = None,
    *,
    fit: Fit = "corrected",
    input_size: tuple[int, int, int] | None = None,
    output: Kind | None = None,
    target: Target | None = None,
    batch: int = 1,
    seed: int = 0,
    progress: Progress = silent,
) -> Plan:
    """Choose a form and rank per convolution so that the network meets a budget.

    Args:
        model: any network; it is put into eval mode and otherwise not changed.
        batches: calibration inputs `[n, channels, height, width]`, or tuples whose first is
            one. Labels are not needed. May be empty for `fit="weight"`.
        budget: `Budget(macs=0.5)` and the like.
        input_size: `(channels, height, width)`, needed only without batches.
        output: `logits` (judge by KL divergence) or `values` (by relative squared error);
            found out from the network where not given.
        target: where a budget of latency counts; default: PyTorch eager, where and in what type
            the network is.
        batch: images per forward pass, for latency.

    Raises:
        ConversionError: no convolution can be replaced; the reasons are in the message.
        BudgetError: the budget cannot be met; the message says the least reachable.
    """
    if budget is None or not budget.model_dump(exclude_none=True):
        raise PlanError("no budget given", do="say Budget(macs=0.5) or another fraction to keep")
    seen = survey(
        model, batches, budgets=[budget], fit=fit, input_size=input_size, output=output,
        seed=seed, progress=progress,
    )  # fmt: skip
    return plan_from(seen, budget, target, batch, progress)


def plan_from(
    seen: Survey, budget: Budget, target: Target | None, batch: int, progress: Progress = silent
) -> Plan:
    """The plan for a budget from what is known of the layers; arguments as for `plan`."""
    if budget.latency is None:
        return seen.plan(budget)
    target = target or target_of(seen.model)
    return meet_latency(seen, budget, target, batch=batch, progress=progress)
