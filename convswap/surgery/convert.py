"""Convert a network: the planned layers in place, with fitted weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ConversionError, PlanError
from ..forms import FORMS, Kernel, write_
from ..network.copies import check_finite, deep_copy, first_tensor
from ..network.cost import count
from ..network.outputs import Reference, held_back, output_kind
from ..network.price import price
from ..network.replace import install_
from ..network.sites import Site, find_sites
from ..plans import Choice, Plan
from ..record import record_of, remember
from ..statistics.moments import Moments, gather, weight_problem
from ..support.progress import Progress, silent

STEPS = 100  # of refinement for the fit that is kept


def convert(
    model: nn.Module,
    plan: Plan,
    batches: Iterable[Tensor | tuple] = (),
    *,
    progress: Progress = silent,
) -> nn.Module:
    """A new network of the same class with the planned layers in place and fitted.

    Args:
        model: the network the plan was made for; it is put into eval mode, else untouched.
        batches: calibration inputs, as for `plan`; may be empty if `plan.fit` is `weight`.

    Raises:
        PlanError, RankError: the plan does not fit the network.
        ConversionError: the plan converts nothing.
    """
    if not plan.choices:
        raise ConversionError("the plan converts nothing: every layer already fits the budget")
    batches = list(batches)
    images = [first_tensor(batch) for batch in batches]
    if not images and plan.fit != "weight":
        raise PlanError(f"fit {plan.fit!r} needs images", do="give batches")
    check_finite(model.eval())
    if images:
        plan = plan.model_copy(update={"input_size": tuple(images[0].shape[1:])})
    sites, _ = find_sites(model, plan.input_size)
    plan = price(plan, sites, count(model, plan.input_size))
    small = install_(deep_copy(model), plan)
    if plan.fit == "weight":
        _fit_to_weights(model, small, plan, progress)
    else:
        _fit_to_images(model, small, plan, sites, images, progress)
    if images:
        held = held_back(images)
        reference = Reference(model, held, plan.output or output_kind(model, batches))
        _settle_batchnorm(small, images[: -len(held)], reference)
        plan = plan.model_copy(update={"damage_measured": reference.distance(small)})
    return remember(small, plans=(*record_of(model).plans, plan))


def _fit_to_weights(model: nn.Module, small: nn.Module, plan: Plan, progress: Progress) -> None:
    for index, choice in enumerate(plan.choices):
        conv = model.get_submodule(choice.site)
        kernel = Kernel(*conv.weight.shape)
        weights = FORMS[choice.form].fit(weight_problem(conv), kernel, choice.rank, STEPS)
        write_(small.get_submodule(choice.site), weights, conv.bias)
        progress("fit", index + 1, len(plan.choices))


def _fit_to_images(
    model: nn.Module,
    small: nn.Module,
    plan: Plan,
    sites: Sequence[Site],
    images: Sequence[Tensor],
    progress: Progress,
) -> None:
    """Fit every site to the original's output there; `corrected` from the inputs it now gets.

    A layer that runs more than once must have its weights before its first call, so it is
    fitted on the original network's activations whatever the mode.
    """
    choices = {choice.site: choice for choice in plan.choices}
    sites = [site for site in sites if site.path in choices]
    once = [site for site in sites if site.calls == 1 and plan.fit == "corrected"]
    others = [site for site in sites if site not in once]
    done = 0
    for some, changed in ((others, None), (once, small)):
        for site, seen in gather(model, some, images, plan.seed, changed):
            conv = model.get_submodule(site.path)
            _fit_site_(small, conv, choices[site.path], seen, corrected=changed is not None)
            progress("fit", done := done + 1, len(choices))


def _fit_site_(
    small: nn.Module, conv: nn.Conv2d, choice: Choice, seen: Moments, corrected: bool
) -> None:
    form, kernel = FORMS[choice.form], Kernel(*conv.weight.shape)
    problem = seen.problem(conv.weight.detach(), corrected)
    weights = form.fit(problem, kernel, choice.rank, STEPS)
    spelled = form.spell(weights, kernel).to(seen.mean_x)
    bias = seen.mean_y - spelled @ seen.mean_x  # the mean output matches
    write_(small.get_submodule(choice.site), weights, bias)


@torch.no_grad()
def _settle_batchnorm(small: nn.Module, images: Sequence[Tensor], reference: Reference) -> None:
    """Re-estimate batch-norm statistics if that brings held-back images closer to the original."""
    norms = [m for m in small.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms or not images:
        return
    before = reference.distance(small)
    kept = [copy.deepcopy(norm.state_dict()) for norm in norms]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
        norm.train()
    try:
        for batch in images:
            small(batch.clone())
        estimated = True
    except ValueError:  # a batch norm over single values has no statistics
        estimated = False
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
    if not (estimated and reference.distance(small) < before):
        for norm, state in zip(norms, kept, strict=True):
            norm.load_state_dict(state)
