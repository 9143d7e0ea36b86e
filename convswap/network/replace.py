"""Change the network: put the planned layers in."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..errors import PlanError
from ..forms import (
    FORMS,
    REPLACEABLE,
    become_,
    build,
    check_pads,
    check_rank,
    in_groups,
    unit_of,
)
from ..plans import Plan
from ..support.randomness import seeded
from .copies import deep_copy, in_eval_mode
from .norms import Norm, fold_


def install_(model: nn.Module, plan: Plan) -> nn.Module:
    """Put the planned layers into a network, in place, with weights still to be written.

    Raises:
        PlanError, RankError: a choice does not fit the layer it names.
    """
    for choice in plan.choices:
        try:
            layer = model.get_submodule(choice.site)
        except AttributeError:
            raise PlanError(f"the network has no layer {choice.site}") from None
        if not isinstance(layer, REPLACEABLE):
            raise PlanError(f"layer {choice.site} is no standard convolution or linear layer")
        kernel = unit_of(layer)
        check_rank(choice.form, kernel, choice.rank)
        check_pads(layer, choice.pads)
        bias = layer.bias is not None or plan.fit != "weight"
        layers = FORMS[choice.form].layers(kernel, choice.rank)
        layers = in_groups(layers, getattr(layer, "groups", 1))
        become_(layer, build(layers, layer, bias, choice.pads, choice.dtype))
    return model


def blank(model: nn.Module, plan: Plan, norms: Sequence[Norm] = ()) -> nn.Module:
    """A copy of a network with the planned layers in place, their weights random: as fast as
    the converted one will be.

    Args:
        norms: that are folded where the plan says so.
    """
    network = install_(deep_copy(model), plan)
    with seeded(plan.seed):
        for choice in plan.choices:
            for layer in network.get_submodule(choice.site):
                layer.reset_parameters()
    if plan.fold_norms:
        fold_(network, {norm.path: norm.layer for norm in norms})
    return in_eval_mode(network)
