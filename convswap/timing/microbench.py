"""One convolution, or what stands in for it, as a network small enough to time by the hundred."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..forms import FORMS, Kernel, Rank, build, check_rank
from ..network.calls import noise
from ..network.cost import Size
from ..network.sites import Site

Pair = tuple[int, int]


@dataclass(frozen=True)
class Signature:
    """What the time of one call of a site depends on, values apart.

    Attributes:
        height, width: of the input.
        norm, act: whether a batch norm, an activation follow.
        images: in one call, for one sample.
    """

    kernel: Kernel
    stride: Pair
    padding: Pair | str
    dilation: Pair
    height: int
    width: int
    bias: bool
    norm: bool
    act: bool
    images: int = 1

    def __str__(self) -> str:
        """All of it in one line, the same in every process."""
        numbers = (self.kernel, self.stride, self.dilation, (self.height, self.width))
        kernel, stride, dilation, size = ("x".join(map(str, n)) for n in numbers)
        padding = (
            self.padding if isinstance(self.padding, str) else "x".join(map(str, self.padding))
        )
        words = [f"{kernel} on {size} stride {stride} padding {padding} dilation {dilation}"]
        words += [f"images {self.images}"] * (self.images > 1)
        return " ".join(words + [w for w in ("bias", "norm", "act") if getattr(self, w)])

    def inputs(self, batch: int) -> Tensor:
        """Random inputs for so many samples, `[batch * images, in, height, width]`."""
        return noise((batch * self.images, self.kernel.in_channels, self.height, self.width))

    def network(self, form: str | None = None, rank: Rank | None = None) -> nn.Sequential:
        """ReLU, then the dense convolution or its replacement, then the batch norm and
        activation that follow it (ReLU stands in for any); random weights of the usual size.

        Raises:
            RankError: the form or rank does not fit the kernel.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            conv = layer = nn.Conv2d(
                self.kernel.in_channels, self.kernel.out_channels, self.kernel[2:], self.stride,
                self.padding, self.dilation, bias=self.bias,
            )  # fmt: skip
            if form is not None:
                check_rank(form, self.kernel, rank)
                layer = build(FORMS[form].layers(self.kernel, rank), conv, bias=True)
                for part in layer:
                    part.reset_parameters()
        norm = [nn.BatchNorm2d(self.kernel.out_channels)] * self.norm
        return nn.Sequential(nn.ReLU(), layer, *norm, *[nn.ReLU()] * self.act).eval()


def signatures(site: Site) -> list[Signature]:
    """One signature per call of a site."""
    return [
        Signature(
            Kernel(*site.kernel), site.stride, _padding(site, size), site.dilation,
            size.in_height, size.in_width, site.bias, site.norm is not None, site.act is not None,
            size.images,
        )
        for size in site.sizes
    ]  # fmt: skip


def _padding(site: Site, size: Size) -> Pair | str:
    """The site's padding, or in numbers that of a layer that pads by its own rule."""
    if isinstance(site.padding, str):
        return site.padding
    axes = range(2)
    reach = [site.dilation[i] * (site.kernel[2 + i] - 1) for i in axes]
    inputs, outputs = (size.in_height, size.in_width), (size.out_height, size.out_width)
    if all(
        (inputs[i] + 2 * site.padding[i] - reach[i] - 1) // site.stride[i] + 1 == outputs[i]
        for i in axes
    ):
        return site.padding
    return tuple(math.ceil(reach[i] / 2) for i in axes)
