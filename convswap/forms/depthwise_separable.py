"""The textbook layer by itself, for people who build networks by hand."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ..errors import RankError
from . import FORMS, Kernel, write_
from .least_squares import LeastSquares

Pair = int | tuple[int, int]


class DepthwiseSeparableConv2d(nn.Sequential):
    """A depthwise convolution per channel, then a 1x1 convolution across channels.

    Arguments and shape rules are those of `nn.Conv2d`; there is no activation in between.
    Source: Sifre 2014; Chollet 2017 (Xception).

    Example: 3 channels of 5x5, a 3x3 kernel, `valid` padding, 2 filters give 2 of 3x3:

        >>> layer = DepthwiseSeparableConv2d(3, 2, 3)
        >>> layer(torch.zeros(1, 3, 5, 5)).shape
        torch.Size([1, 2, 3, 3])

    Args:
        multiplier: depthwise filters per input channel.

    Attributes:
        depthwise: `nn.Conv2d` of `in_channels * multiplier` filters, one channel each.
        pointwise: `nn.Conv2d` of size 1, which carries the bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        multiplier: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        middle = in_channels * multiplier
        factory = {"device": device, "dtype": dtype}
        depthwise = nn.Conv2d(
            in_channels, middle, kernel_size, stride, padding, dilation, in_channels, False,
            padding_mode, **factory,
        )  # fmt: skip
        pointwise = nn.Conv2d(middle, out_channels, 1, bias=bias, **factory)
        super().__init__(OrderedDict(depthwise=depthwise, pointwise=pointwise))

    @classmethod
    @torch.no_grad()
    def from_conv(
        cls, conv: nn.Conv2d, moments: Tensor | None = None, multiplier: int = 1, steps: int = 100
    ) -> DepthwiseSeparableConv2d:
        """The closest layer of this kind to a dense convolution.

        Args:
            moments: `[D, D]` with D = in_channels * kh * kw, second moments E[x x^T] of the
                patches it reads, in the order of `conv.weight.flatten(1)`; weights the fit.
            multiplier: from `kh * kw` on the result is exact.
            steps: of refinement.

        Raises:
            RankError: the convolution is grouped or of a subclass, or the moments do not fit it.
        """
        if type(conv) is not nn.Conv2d or conv.groups != 1:
            raise RankError("from_conv takes a plain nn.Conv2d with groups=1")
        weight = conv.weight.flatten(1).double()
        depth = weight.shape[1]
        if moments is not None and moments.shape != (depth, depth):
            raise RankError(f"moments must be [{depth}, {depth}], not {list(moments.shape)}")
        moment = torch.eye(weight.shape[1]).to(weight) if moments is None else moments.to(weight)
        layer = cls(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
            conv.dilation, conv.bias is not None, conv.padding_mode, multiplier,
            conv.weight.device, conv.weight.dtype,
        )  # fmt: skip
        problem = LeastSquares(weight, moment)
        kernel = Kernel(*conv.weight.shape)
        write_(layer, FORMS["separable"].fit(problem, kernel, multiplier, steps).weights, conv.bias)
        return layer
