"""Look at every layer once, and choose: every plan for a network comes from its survey."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from ..errors import BudgetError, ConversionError, ModelError, PlanError, TargetError
from ..fitting import fit_to_images_
from ..network.alike import check_copied
from ..network.bake import baked
from ..network.calls import Batch, Call, read_batches
from ..network.copies import deep_copy, in_eval_mode, keeps_buffers
from ..network.layout import in_fastest_layout
from ..network.match import Pick
from ..network.norms import folded
from ..network.observe import Observation, observe
from ..network.outputs import Reference, held_back, output_kind
from ..network.price import price
from ..network.replace import install_
from ..network.sites import Site
from ..network.state import check_finite
from ..network.thread_state import undisturbed
from ..network.wrappers import unwrapped
from ..plans import Budget, Choice, Cost, Fit, Kind, Layers, Plan
from ..runtimes import Target, target_of
from ..support.progress import Progress, silent
from ..support.ranks import led
from . import kept
from .by_time import meet_latency
from .candidates import Candidate, costs_of, find_candidates, weight_candidates
from .knapsack import check_reachable, solve
from .notes import notes_of, some_of

FAR = 0.15  # nats: from there on a converted classifier is less sure, and minds other layers
ROUGHLY = 20  # steps of refinement, to see which


@dataclass(frozen=True)
class Survey:
    """All that is known about a network's layers.

    Attributes:
        seen: what is in the network.
        options: per module path, the candidates to choose from.
        output: what damage is of, where it is of outputs.
        notes: what a person should know of how it was made, a line each.
        batches: what the network was seen to run on.
        cache: folder where what is found is kept.
    """

    model: nn.Module
    seen: Observation
    options: dict[str, list[Candidate]]
    fit: Fit
    seed: int
    output: Kind | None = None
    notes: tuple[str, ...] = ()
    batches: Sequence[Batch] = ()
    cache: Path | None = None

    @property
    def sites(self) -> list[Site]:
        """The convolutions that can be replaced, in execution order."""
        return self.seen.replaceable

    @property
    def dense(self) -> Cost:
        """Cost of the whole network as it is."""
        return self.seen.dense

    @undisturbed
    def plan(
        self,
        budget: Budget,
        *,
        target: Target | None = None,
        batch: int = 1,
        progress: Progress = silent,
    ) -> Plan:
        """The choice with the least summed damage within a budget.

        Where that takes a classifier far from the original, it is less sure of its predictions, so
        the curvature of the original says less of what it minds: the choice is made again by that
        of the converted network. Measured on a ResNet-20, KL and top-1: at 0.15 of its
        multiply-adds 0.284 -> 0.269 and 80.6 -> 81.7 %, at 0.1 0.583 -> 0.501 and 71.8 -> 74.1 %,
        after four passes of distillation 0.260 -> 0.241 and 81.7 -> 82.8 %.

        Args:
            target: where a budget of latency counts; default: PyTorch eager, where and in what
                type the network is.
            batch: samples per forward pass, for latency.

        Raises:
            BudgetError: the budget cannot be met; the message says the least reachable.
            ConversionError: it is one of latency, and nothing makes the network faster.
            TargetError: the target cannot run the network.
        """
        first = self._choose(budget, target, batch, progress)
        if self.fit == "weight" or self.output != "logits" or first.damage < FAR:
            return first
        if there := self._around(first, progress):
            with suppress(BudgetError, ConversionError):  # times are not the same twice
                return there._choose(budget, target, batch, progress)
        return first

    def _choose(
        self, budget: Budget, target: Target | None, batch: int, progress: Progress
    ) -> Plan:
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

    def _around(self, plan: Plan, progress: Progress) -> Survey | None:
        """The same layers, judged by what the output minds where a plan takes the network; None
        where that is not far, or nothing can be told there."""
        model = in_eval_mode(self.model)
        try:
            found = _find(
                model, self.seen, self.batches, self.output, self.seed, self.cache, progress, plan
            )
        except (ConversionError, ModelError):  # of user's code, which converting will meet as well
            return None
        options = {path: found.options.get(path) or row for path, row in self.options.items()}
        return replace(self, options=options) if found.options else None

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


@undisturbed
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
        reasons = [f"{some_of(some)}: {reason}" for reason, some in paths.items()]
        why = "; ".join(reasons or ["it has no layer that is an nn.Conv or nn.Linear"])
        raise ConversionError(f"nothing to convert in {type(model).__name__}: {why}")
    check_copied(model, seen.example, [site.path for site in sites])
    if seen.norms:
        folded(model, seen.norms, seen.example)  # so that it fails before the long part
    costs = [list(costs_of(site, bias).values()) for site in sites]
    for budget in budgets:
        bounds = budget.bounds(seen.dense)
        check_reachable(costs, [site.cost for site in sites], seen.dense, bounds)
    if fit == "weight":
        dense = baked(model, seen.plain)
        return Survey(model, seen, weight_candidates(dense, sites, progress), fit, seed, kind)
    found = _find(model, seen, batches, kind, seed, cache, progress)
    notes = notes_of(model, batches[0], found)
    return Survey(model, seen, found.options, fit, seed, found.kind, notes, batches, cache)


@keeps_buffers
def _find(
    model: nn.Module,
    seen: Observation,
    batches: Sequence[Batch],
    kind: Kind | None,
    seed: int,
    cache: Path | None,
    progress: Progress,
    around: Plan | None = None,
) -> kept.Found:
    """The candidates of every layer, kept from before if they are.

    Args:
        around: makes the network in which gradients are taken, if not in the original; where that
            is not far from it there are no candidates.
    """
    sites = seen.replaceable
    file = cache and kept.place(cache, model, sites, batches, kind, seed, around)
    found = file and kept.read(file, sites)
    if found:
        progress("candidates kept from before", len(sites), len(sites))
        return found
    kind = kind or led(lambda: output_kind(model, batches))
    dense = baked(model, seen.plain)
    there = install_(deep_copy(model), around) if around else dense
    with in_fastest_layout([*dict.fromkeys((dense, there))], batches) as images:
        if around:
            reference = Reference(dense, held_back(images)[1], kind)
            if reference.spread() < FAR:  # hardly trained: it was told to go further than it can
                return kept.Found(kind, {})
            fit_to_images_(dense, there, around, sites, images, kind, progress, ROUGHLY)
            far = reference.distance(there)
            if far < FAR:
                return kept.Found(kind, {})
            progress(f"{far:.2f} nats from the original: layers are judged again there", 0, 0)
        options, cut_off = find_candidates(dense, sites, images, kind, seed, progress, there)
    found = kept.Found(kind, options, cut_off)
    if file:
        kept.write(found, file)
    return found
