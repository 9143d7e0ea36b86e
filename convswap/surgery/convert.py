"""Convert a network: the planned layers in place, with fitted weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from ..errors import ConversionError, PlanError
from ..fitting import fit_to_images_, fit_to_weights_
from ..network.alike import check_copied
from ..network.bake import baked
from ..network.calls import Call, read_batches, stand_in
from ..network.copies import deep_copy, in_eval_mode, keeps_buffers, still_training
from ..network.layout import in_fastest_layout
from ..network.match import Pick
from ..network.norms import folded
from ..network.observe import check_planned, observe
from ..network.outputs import Reference, held_back, output_kind
from ..network.price import price
from ..network.replace import install_
from ..network.state import check_finite
from ..network.thread_state import undisturbed
from ..network.wrappers import unwrapped
from ..plans import Plan
from ..record import record_of, remember
from ..support.progress import Progress, silent
from ..support.ranks import led
from .batch_norm import settle_batch_norm_

FAR = 10  # times the damage predicted: more than fits that interact explain
SMALL = 0.01  # nats, or relative squared error: below it nobody minds


@undisturbed
@keeps_buffers
def convert(
    model: nn.Module,
    plan: Plan,
    batches: Iterable[object] = (),
    *,
    output: Pick | None = None,
    call: Call | None = None,
    progress: Progress = silent,
) -> nn.Module:
    """A new network of the same class with the planned layers in place and fitted.

    Args:
        model: the network the plan was made for; it is put into eval mode, else untouched.
        batches: calibration inputs, as for `plan`; may be empty if `plan.fit` is `weight`.
        output, call: what is picked out of the output, and how a batch is passed, as for `plan`.

    Raises:
        PlanError, RankError: the plan does not fit the network.
        ConversionError: the plan converts nothing, or the network does not run as planned.
    """
    if not isinstance(plan, Plan):
        raise PlanError(f"{type(plan).__name__} is no plan", do="give what plan or Plan.load gives")
    if not plan.choices:
        raise ConversionError("the plan converts nothing: every layer already fits the budget")
    model = in_eval_mode(unwrapped(model))
    check_finite(model)
    batches = read_batches(model, batches, call, output)
    if not batches and plan.fit != "weight":
        raise PlanError(f"fit {plan.fit!r} needs images", do="give batches")
    seen = observe(model, batches[0] if batches else stand_in(model, plan.inputs))
    plan = price(plan, seen)
    plan = plan.model_copy(update={"inputs": seen.example.inputs})
    if plan.fold_norms and not seen.norms:
        raise PlanError("the plan folds batch norms, and there are none that could be")
    small = install_(deep_copy(model), plan)
    check_planned(small, plan, seen)
    check_copied(model, seen.example, [choice.site for choice in plan.choices])
    dense = baked(model, seen.plain)
    if plan.fit == "weight":
        fit_to_weights_(dense, small, plan, seen.replaceable, progress)
    if batches:
        kind = plan.output or led(lambda: output_kind(model, batches))
        with in_fastest_layout([dense, small], batches) as images:
            if plan.fit != "weight":
                fit_to_images_(dense, small, plan, seen.replaceable, images, kind, progress)
            rest, held = held_back(images)
            reference = Reference(dense, held, kind)
            if plan.fit != "corrected":  # those follow the outputs that the statistics are of
                settle_batch_norm_(small, rest, reference)
            plan = _judged(plan, reference.distance(small), still_training(dense))
    if plan.fold_norms:
        small = folded(small, seen.norms, seen.example)
    return remember(small, plans=(*record_of(model).plans, plan))


def _judged(plan: Plan, measured: float, training: Sequence[str]) -> Plan:
    """The plan with the damage that was measured, and a note if it is far from the prediction.

    Args:
        training: what stays in training mode.
    """
    notes = plan.notes
    if measured > max(FAR * plan.damage, SMALL) and plan.damage > 0:
        asked = "does forward ask for the class of a layer, or for its name?"
        notes += (
            f"the outputs changed {measured / plan.damage:.0f} times as much as predicted: "
            f"{'part of it stays in training mode' if training else asked}",
        )
    return plan.model_copy(update={"damage_measured": measured, "notes": notes})
