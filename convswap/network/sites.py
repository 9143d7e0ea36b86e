"""Sites: the layers of a network that could be replaced, and if one is left alone, the reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..forms import FORMS, Kernel, Rank, in_groups
from ..plans import Cost
from .cost import Size, layers_cost
from .sums import Sum


@dataclass(frozen=True)
class Site:
    """One convolution of a network, or a linear layer that works on a map or on tokens.

    Attributes:
        path: module path in the user's network, the first of all `paths` it stands under.
        kind: class name.
        kernel: its shape, `[out, in / groups, kh, kw]` of a Conv2d, transposed or not.
        params, bytes: of the layer as it is.
        pads: how a replacement pads, where the layer's own setting does not say.
        dtype: of a replacement's weights, where it is not that of the layer's own.
        sizes: input and output size of every call; empty if never run.
        positions: how often the kernel is applied to one sample, all calls and images of it
            together.
        beside: multiply-adds that compute its weight, all calls together.
        norm, act: class names of the normalisation and activation that follow, if any is known.
        sum: the sum it feeds, if it does and the other addend is computed before it.
        reason: why the site is left alone; None if it can be replaced.
    """

    path: str
    paths: tuple[str, ...]
    kind: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    padding_mode: str
    dilation: tuple[int, ...]
    groups: int
    bias: bool
    params: int
    bytes: int
    itemsize: int
    out_channels: int
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    sizes: tuple[Size, ...] = ()
    positions: int = 0
    beside: int = 0
    pads: tuple[int, ...] | Literal["same"] | None = None
    dtype: str | None = None
    norm: str | None = None
    act: str | None = None
    sum: Sum | None = None
    reason: str | None = None

    @property
    def unit(self) -> Kernel:
        """The kernel of one group."""
        return Kernel(self.kernel[0] // self.groups, *self.kernel[1:])

    @property
    def calls(self) -> int:
        """How often one forward pass runs it."""
        return len(self.sizes)

    @property
    def cost(self) -> Cost:
        """What the dense layer costs, all calls together."""
        macs = math.prod(self.kernel) * self.positions + self.beside
        return Cost(macs, self.params, self.bytes)

    @property
    def forms(self) -> list[str]:
        """Names of the forms that could replace it; empty where it is left alone."""
        if self.reason:
            return []
        return [name for name, form in FORMS.items() if form.applies(self.unit)]


def separable_already(sites: Sequence[Site]) -> list[Site]:
    """The layers that are depthwise, and the pointwise ones right before or after one of them.

    Args:
        sites: in execution order.
    """
    depthwise = [site.groups > 1 and site.kernel[1] == 1 for site in sites]
    beside = [
        any(depthwise[max(at - 1, 0) : at + 2]) and math.prod(site.kernel[2:]) == 1
        for at, site in enumerate(sites)
    ]
    return [s for s, is_one, near in zip(sites, depthwise, beside, strict=True) if is_one or near]


def replacement_cost(site: Site, form: str, rank: Rank, bias: bool) -> Cost:
    """Cost of the layers that would stand in for a site."""
    layers = in_groups(FORMS[form].layers(site.unit, rank), site.groups)
    return layers_cost(layers, site.sizes, site.itemsize, bias or site.bias, site.transposed)
