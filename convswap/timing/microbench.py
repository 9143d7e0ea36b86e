"""One layer, or what stands in for it, as a network small enough to time by the hundred."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from ..forms import FORMS, PLAIN, TRANSPOSED, Kernel, Rank, build, check_rank, in_groups
from ..network.calls import noise
from ..network.cost import Size
from ..network.sites import Site
from ..support.randomness import seeded

NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}  # by number of axes


@dataclass(frozen=True)
class Signature:
    """What the time of one call of a site depends on, values apart.

    Attributes:
        kernel: of all groups, `[out, in / groups, *size]`.
        stride, padding, dilation, size: along each axis; the last is that of the input.
        norm, act: whether a batch norm, an activation follow.
        images: in one call, for one sample; of a linear layer, vectors.
        output_padding: along each axis, of a transposed layer; None of any other.
    """

    kernel: Kernel
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    size: tuple[int, ...]
    bias: bool
    norm: bool
    act: bool
    images: int = 1
    groups: int = 1
    output_padding: tuple[int, ...] | None = None

    def __str__(self) -> str:
        """All of it in one line, the same in every process."""
        numbers = (self.kernel, self.stride, self.dilation, self.size)
        kernel, stride, dilation, size = ("x".join(map(str, n)) for n in numbers)
        padding = (
            self.padding if isinstance(self.padding, str) else "x".join(map(str, self.padding))
        )
        words = [f"{kernel} on {size} stride {stride} padding {padding} dilation {dilation}"]
        words += [f"images {self.images}"] * (self.images > 1)
        words += [f"groups {self.groups}"] * (self.groups > 1)
        if self.output_padding is not None:
            words.append(f"transposed {'x'.join(map(str, self.output_padding))}")
        return " ".join(words + [w for w in ("bias", "norm", "act") if getattr(self, w)])

    @property
    def unit(self) -> Kernel:
        """The kernel of one group."""
        return Kernel(self.kernel[0] // self.groups, *self.kernel[1:])

    def inputs(self, batch: int) -> Tensor:
        """Random inputs for so many samples, `[batch * images, in, *size]`; of a linear layer,
        `[batch, images, in]`."""
        channels = self.groups * self.kernel.in_channels
        if not self.size:
            return noise((batch, self.images, channels))
        return noise((batch * self.images, channels, *self.size))

    def network(self, form: str | None = None, rank: Rank | None = None) -> nn.Sequential:
        """ReLU, then the dense layer or its replacement, then the batch norm and
        activation that follow it (ReLU stands in for any); random weights of the usual size.

        Raises:
            RankError: the form or rank does not fit the kernel.
        """
        with seeded(0):
            dense = layer = self._dense()
            if form is not None:
                check_rank(form, self.unit, rank)
                layers = in_groups(FORMS[form].layers(self.unit, rank), self.groups)
                layer = build(layers, dense, bias=True)
                for part in layer:
                    part.reset_parameters()
        norm = [NORMS[len(self.size)](self.kernel.out_channels)] if self.norm and self.size else []
        return nn.Sequential(nn.ReLU(), layer, *norm, *[nn.ReLU()] * self.act).eval()

    def _dense(self) -> nn.Module:
        out, channels = self.kernel.out_channels, self.groups * self.kernel.in_channels
        if not self.size:
            return nn.Linear(channels, out, self.bias)
        settings = {
            "kernel_size": self.kernel.size, "stride": self.stride, "padding": self.padding,
            "dilation": self.dilation, "groups": self.groups, "bias": self.bias,
        }  # fmt: skip
        if self.output_padding is None:
            return PLAIN[len(self.size)](channels, out, **settings)
        settings["output_padding"] = self.output_padding
        return TRANSPOSED[len(self.size)](channels, out, **settings)


def signatures(site: Site) -> list[Signature]:
    """One signature per call of a site."""
    return [
        Signature(
            Kernel(*site.kernel), site.stride, _padding(site, size), site.dilation, size.read,
            site.bias, site.norm is not None, site.act is not None, size.images, site.groups,
            site.output_padding if site.transposed else None,
        )
        for size in site.sizes
    ]  # fmt: skip


def _padding(site: Site, size: Size) -> tuple[int, ...] | str:
    """The site's padding, or in numbers that of a layer that pads by its own rule."""
    if site.transposed or isinstance(site.padding, str):
        return site.padding
    reach = [d * (k - 1) for d, k in zip(site.dilation, site.kernel[2:], strict=True)]
    axes = zip(size.read, site.padding, reach, site.stride, size.written, strict=True)
    if all((n + 2 * pad - far - 1) // stride + 1 == out for n, pad, far, stride, out in axes):
        return site.padding
    return tuple(math.ceil(far / 2) for far in reach)
