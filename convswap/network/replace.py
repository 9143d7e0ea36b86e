"""Change the network: put the planned layers in."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..errors import PlanError
from ..forms import (
    FORMS,
    REPLACEABLE,
    Factorized,
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

_FUSED = {  # where all layers are computed at once, and what says whether they are
    nn.TransformerEncoder: "use_nested_tensor",
    nn.TransformerEncoderLayer: "activation_relu_or_gelu",
}


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
    _run_layers_(model)
    return model


def _run_layers_(model: nn.Module) -> None:
    """Have PyTorch's encoders run the layers that stand in for linear ones of theirs: what they run
    instead in eval mode, to be faster, computes with the one weight that these amount to."""
    for module in model.modules():
        for kind, switch in _FUSED.items():
            if isinstance(module, kind):
                replaced = any(isinstance(layer, Factorized) for layer in module.modules())
                setattr(module, switch, getattr(module, switch, False) and not replaced)


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
