"""Look at every layer once, and choose: every plan for a network comes from its survey."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..errors import ConversionError, PlanError, TargetError
from ..network.bake import baked
from ..network.calls import Batch, Call, read_batches
from ..network.copies import in_eval_mode, keeps_buffers, still_training
from ..network.layout import in_fastest_layout
from ..network.match import Pick
from ..network.norms import folded
from ..network.observe import Observation, observe
from ..network.outputs import output_kind
from ..network.price import price
from ..network.sites import Site
from ..network.state import check_finite, unkept_of
from ..network.wrappers import hidden_in, unwrapped
from ..plans import Budget, Choice, Cost, Fit, Kind, Layers, Plan
from ..runtimes import Target, target_of
from ..support.progress import Progress, silent
from ..support.ranks import led
from . import kept
from .by_time import meet_latency
from .candidates import Candidate, costs_of, find_candidates, weight_candidates
from .knapsack import check_reachable, solve

NOTHING = 1e-20  # damage that is none


@dataclass(frozen=True)
class Survey:
    """All that is known about a network's layers.

    Attributes:
        seen: what is in the network.
        options: per module path, the candidates to choose from.
        output: what damage is of, where it is of outputs.
        notes: what a person should know of how it was made, a line each.
    """

    model: nn.Module
    seen: Observation
    options: dict[str, list[Candidate]]
    fit: Fit
    seed: int
    output: Kind | None = None
    notes: tuple[str, ...] = ()

    @property
    def sites(self) -> list[Site]:
        """The convolutions that can be replaced, in execution order."""
        return self.seen.replaceable

    @property
    def dense(self) -> Cost:
        """Cost of the whole network as it is."""
        return self.seen.dense

    def plan(
        self,
        budget: Budget,
        *,
        target: Target | None = None,
        batch: int = 1,
        progress: Progress = silent,
    ) -> Plan:
        """The choice with the least summed damage within a budget.

        Args:
            target: where a budget of latency counts; default: PyTorch eager, where and in what
                type the network is.
            batch: samples per forward pass, for latency.

        Raises:
            BudgetError: the budget cannot be met; the message says the least reachable.
            ConversionError: it is one of latency, and nothing makes the network faster.
            TargetError: the target cannot run the network.
        """
        if budget.latency is not None:
            target = target or target_of(self.model)
            return led(lambda: meet_latency(self, budget, target, batch=batch, progress=progress))
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
            inputs=self.seen.example.inputs, fit=self.fit, output=self.output, seed=self.seed,
            budget=budget, dense=self.dense, planned=self.dense, notes=self.notes,
            fold_norms=bool(self.seen.norms), choices=choices,
        )  # fmt: skip
        return price(plan, self.seen)


def plan(
    model: nn.Module,
    batches: Iterable[object] = (),
    budget: Budget | None = None,
    *,
    fit: Fit = "corrected",
    input_size: tuple[int, int, int] | None = None,
    output: Kind | Pick | None = None,
    call: Call | None = None,
    layers: Layers = Layers(),
    target: Target | None = None,
    batch: int = 1,
    seed: int = 0,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Plan:
    """Choose a form and rank per convolution so that the network meets a budget.

    Args:
        model: any network; it is put into eval mode and otherwise not changed.
        batches: calibration inputs: tensors `[n, ...]`, tuples or dicts of them; labels are not
            needed. May be empty for `fit="weight"`.
        budget: `Budget(macs=0.5)` and the like.
        input_size: `(channels, height, width)` of an image, or a batch of whatever the network
            takes; needed only without batches.
        output: `logits` (judge by KL divergence) or `values` (by relative squared error);
            found out from the network where not given. Or what is judged is picked out of the
            output, `lambda output: output["logits"]`; give the same to `convert`.
        call: how a batch is passed, `lambda model, batch: model(batch["image"])`, where the
            signature of `forward` does not tell.
        layers: which layers may be replaced, and whether batch norms are folded; default: all,
            and no.
        target, batch: for a budget of latency; see `Survey.plan`.
        cache: folder where what is found out about the layers is kept, and taken from if
            network, images and settings are the same.

    Raises:
        ConversionError: no convolution can be replaced; the reasons are in the message.
        BudgetError: the budget cannot be met; the message says the least reachable.
    """
    if not isinstance(budget, Budget) or budget == Budget():
        raise PlanError("no budget given", do="say Budget(macs=0.5) or another fraction to keep")
    if isinstance(target, str):
        raise TargetError("a target is more than its name", do=f"say open_target({target!r})")
    seen = survey(
        model, batches, budgets=[budget], fit=fit, input_size=input_size, output=output,
        call=call, layers=layers, seed=seed, cache=cache, progress=progress,
    )  # fmt: skip
    return seen.plan(budget, target=target, batch=batch, progress=progress)


@keeps_buffers
def survey(
    model: nn.Module,
    batches: Iterable[object] = (),
    *,
    budgets: Iterable[Budget] = (),
    fit: Fit = "corrected",
    input_size: tuple[int, int, int] | None = None,
    output: Kind | Pick | None = None,
    call: Call | None = None,
    layers: Layers = Layers(),
    seed: int = 0,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Survey:
    """Find and judge every candidate of every layer: the long part of planning.

    Args:
        budgets: refused at once where they cannot be met.
        model, batches, fit, input_size, output, call, layers, seed, cache: as for `plan`.

    Raises:
        ConversionError, BudgetError: as for `plan`.
    """
    model = in_eval_mode(unwrapped(model))
    check_finite(model)
    pick, kind = (output, None) if callable(output) else (None, output)
    batches = read_batches(model, batches, call, pick)
    if not batches and fit != "weight":
        raise PlanError(f"fit {fit!r} needs images", do='give batches, or say fit="weight"')
    if not batches and input_size is None:
        raise PlanError("without images a plan needs an input_size", do="say (3, 224, 224) or so")
    seen = observe(model, input_size if input_size is not None else batches[0]).limited(layers)
    sites, bias = seen.replaceable, fit != "weight"
    if not sites:
        paths: dict[str, list[str]] = {}
        for site in seen.sites:
            paths.setdefault(site.reason, []).append(site.path)
        reasons = [f"{_some(some)}: {reason}" for reason, some in paths.items()]
        why = "; ".join(reasons or ["it has no layer that is an nn.Conv or nn.Linear"])
        raise ConversionError(f"nothing to convert in {type(model).__name__}: {why}")
    if seen.norms:
        folded(model, seen.norms, seen.example)  # so that it fails before the long part
    dense = baked(model, seen.plain)
    costs = [list(costs_of(site, bias).values()) for site in sites]
    for budget in budgets:
        bounds = budget.bounds(seen.dense)
        check_reachable(costs, [site.cost for site in sites], seen.dense, bounds)
    if fit == "weight":
        return Survey(model, seen, weight_candidates(dense, sites, progress), fit, seed, kind)
    file = cache and kept.place(cache, model, sites, batches, kind, seed)
    found = file and kept.read(file, sites)
    if found:
        progress("candidates kept from before", len(sites), len(sites))
    else:
        kind = kind or led(lambda: output_kind(model, batches))
        with in_fastest_layout([dense], batches) as images:
            options, cut_off = find_candidates(dense, sites, images, kind, seed, progress)
        found = kept.Found(kind, options, cut_off)
        if file:
            kept.write(found, file)
    notes = _notes(model, batches[0], found)
    return Survey(model, seen, found.options, fit, seed, found.kind, notes)


def _notes(model: nn.Module, batch: Batch, found: kept.Found) -> tuple[str, ...]:
    notes, parts = (), batch.match.parts
    if training := still_training(model):
        notes += (
            f"in training mode even after eval(): {_some(training)}; outputs may depend on chance, "
            "or on the other samples of a batch",
        )
    if lost := hidden_in(model):
        notes += (
            f"{_some(lost)}: layers in lists or mappings of Python's own are no part of a network "
            "for PyTorch; they are neither replaced nor saved (nn.ModuleList, nn.ModuleDict are)",
        )
    if odd := unkept_of(model):
        notes += (f"{_some(odd)}: no tensors that a file can hold; the network cannot be saved",)
    if batch.unused:
        notes += (
            f"not passed to the network: {_some(batch.unused)}; where it should be, say "
            "call=lambda model, batch: ...",
        )
    if batch.layout.whole:
        notes += ("the samples of a batch cannot be told apart: each batch counts as one",)
    if batch.kept:
        kept = [path or type(model).__name__ for path in batch.kept]
        notes += (
            f"what {_some(kept)} keeps from one call to the next changes the outputs: every batch "
            "finds it as it was given",
        )
    if parts:
        notes += (
            "the outputs vary in number or shape, or are no floating-point numbers: judged by "
            f"those of {_some(parts)}",
        )
    if found.cut_off:
        notes += (
            f"no gradient of the output reaches {_some(found.cut_off)}: judged by what these put "
            "out themselves",
        )
    if missed := [path for path, row in found.options.items() if not row]:
        notes += (f"hardly any image runs through {_some(missed)}: left alone",)
    if mute := [path for path, row in found.options.items() if row and _worst(row) < NOTHING]:
        notes += (
            f"the output does not depend on {_some(mute)}: weights after them are zero, as where "
            "a network was not trained",
        )
    return notes


def _worst(row: Sequence[Candidate]) -> float:
    return max(candidate.damage for candidate in row)


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
