"""Look at every layer once: all that plans are made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import ConversionError, PlanError
from ..network.copies import check_finite, first_tensor
from ..network.cost import count
from ..network.outputs import output_kind
from ..network.price import price
from ..network.sites import Site, find_sites
from ..plans import Budget, Choice, Cost, Fit, Kind, Plan
from ..support.progress import Progress, silent
from .candidates import Candidate, costs_of, find_candidates, weight_candidates
from .knapsack import check_reachable, solve


@dataclass(frozen=True)
class Survey:
    """All that is known about a network's layers; every plan for it comes from here.

    Attributes:
        sites: the convolutions that can be replaced, in execution order.
        options: per module path, the candidates to choose from.
        dense: cost of the whole network as it is.
        output: what damage is of, where it is of outputs.
    """

    model: nn.Module
    sites: list[Site]
    options: dict[str, list[Candidate]]
    dense: Cost
    input_size: tuple[int, int, int]
    fit: Fit
    seed: int
    output: Kind | None = None

    def plan(self, budget: Budget) -> Plan:
        """The choice with the least summed damage within a budget.

        Raises:
            BudgetError: the budget cannot be met; the message says the least reachable.
        """
        chosen = solve(
            [self.options[site.path] for site in self.sites],
            [site.cost for site in self.sites],
            self.dense,
            budget.bounds(self.dense),
        )
        return self.plan_of(chosen, budget)

    def plan_of(self, chosen: Iterable[Candidate | None], budget: Budget) -> Plan:
        """The plan that makes these choices, one per site."""
        choices = tuple(
            Choice(site=c.site, form=c.form, rank=c.rank, damage=c.damage) for c in chosen if c
        )
        plan = Plan(
            input_size=self.input_size, fit=self.fit, output=self.output, seed=self.seed,
            budget=budget, dense=self.dense, planned=self.dense, choices=choices,
        )  # fmt: skip
        return price(plan, self.sites, self.dense)


def survey(
    model: nn.Module,
    batches: Iterable[Tensor | tuple] = (),
    *,
    budgets: Iterable[Budget] = (),
    fit: Fit = "corrected",
    input_size: tuple[int, int, int] | None = None,
    output: Kind | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Survey:
    """Find and judge every candidate of every layer: the long part of planning.

    Args:
        budgets: refused at once where they cannot be met.
        model, batches, fit, input_size, output: as for `plan`.

    Raises:
        ConversionError, BudgetError: as for `plan`.
    """
    batches = list(batches)
    images = [first_tensor(batch) for batch in batches]
    if not images and fit != "weight":
        raise PlanError(f"fit {fit!r} needs images", do='give batches, or say fit="weight"')
    if not images and input_size is None:
        raise PlanError("without images a plan needs an input_size", do="say (3, 224, 224) or so")
    input_size = input_size or tuple(images[0].shape[1:])
    check_finite(model.eval())
    sites, dense = replaceable_sites(model, input_size), count(model, input_size)
    costs = [list(costs_of(site, bias=fit != "weight").values()) for site in sites]
    for budget in budgets:
        check_reachable(costs, [site.cost for site in sites], dense, budget.bounds(dense))
    if fit == "weight":
        options = weight_candidates(model, sites, progress)
    else:
        output = output or output_kind(model, batches)
        options = find_candidates(model, sites, images, output, seed, progress)
    return Survey(model, sites, options, dense, input_size, fit, seed, output)


def replaceable_sites(model: nn.Module, input_size: tuple[int, int, int]) -> list[Site]:
    """The sites that can be replaced.

    Raises:
        ConversionError: there are none; the message gives every reason.
    """
    sites, _ = find_sites(model, input_size)
    found = [site for site in sites if not site.reason]
    if not found:
        reasons = [f"{site.path}: {site.reason}" for site in sites] or ["it has no convolution"]
        raise ConversionError(f"nothing to convert in {type(model).__name__}: {'; '.join(reasons)}")
    return found
