"""An artifact as a network of timm: `timm.create_model("local-dir:DIR", pretrained=True)`.

`config.json` names the architecture `convswap_net`, which is a network of timm with planned layers
in it; timm knows it wherever `convswap` has been imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import timm
from timm.models import _builder, register_model
from torch import Tensor, nn

# subtle: imported right after timm, when modules of ours may be half imported themselves: what is
# needed of them is imported when a network is made

__all__ = ["convswap_net"]


@register_model
def convswap_net(
    pretrained: bool = False,
    *,
    base: str = "",
    base_args: Mapping[str, Any] | None = None,
    folded: bool = False,
    plans: Sequence[Mapping[str, Any]] = (),
    norms: Mapping[str, str] | None = None,
    pretrained_cfg: Any = None,
    pretrained_model_args: object = None,
    **kwargs: Any,
) -> nn.Module:
    """A network of timm with planned layers in it.

    Args:
        base, base_args: the network of timm before, by name, and what it was made with.
        folded: whether the branches it was trained with were folded into single layers.
        plans: what was put into it, in order, each as in a plan file.
        norms: batch norms folded then, the path of each -> that of the layer before it.
        kwargs: what timm's networks take: `num_classes`, `features_only`, ...

    Raises:
        ConvswapError: the name, an argument or a plan is not one that can be trusted or built.
    """
    from ..inputs.bases import check_base, fold_branches_
    from ..network.norms import fold_
    from ..network.replace import install_
    from ..plans import Plan
    from ..record import Base, Record, remember
    from .fit import aliases_of

    known = Base(name=f"timm:{base}", kwargs=dict(base_args or {}), folded=folded)
    check_base(known)
    applied = tuple(map(Plan.model_validate, plans))
    record = Record(base=known, plans=applied, norms=dict(norms or {}))
    load_pretrained = _builder.load_pretrained

    def finish(model: nn.Module, **settings: Any) -> None:
        """Where timm would load weights into a network that it has just built."""
        if folded:
            fold_branches_(model)
        for plan in record.plans:
            install_(model, plan)
        fold_(model, record.norms)
        remember(model, **dict(record))
        if pretrained:
            aliases = aliases_of(model)

            def tied(state: dict[str, Tensor]) -> dict[str, Tensor]:
                return state | {name: state[kept] for name, kept in aliases.items()}

            load_pretrained(model, **settings | {"filter_fn": tied})
        else:
            for plan in record.plans:
                for choice in plan.choices:
                    for layer in model.get_submodule(choice.site).children():
                        layer.reset_parameters()

    # subtle: timm wraps networks for `features_only` in the same call, after loading
    with patch.object(_builder, "load_pretrained", finish):
        return timm.create_model(
            base, pretrained=True, pretrained_cfg=pretrained_cfg, **{**known.kwargs, **kwargs}
        )
