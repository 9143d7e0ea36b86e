"""Second moments of what a convolution reads and writes, gathered over calibration images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn

from .fit import LeastSquares

POSITIONS = 1024  # sampled per image at most; neighbouring patches are nearly copies


def patches(conv: nn.Conv2d, x: Tensor, step: tuple[int, int], offset: tuple[int, int]) -> Tensor:
    """What `conv` reads: `[samples, in*kh*kw]`, rows as in `weight.flatten(1)`.

    Every `step`-th output position is taken, from `offset` on, along height and width.
    """
    if isinstance(conv, Conv2dSame):
        x = pad_same(x, conv.kernel_size, conv.stride, conv.dilation)
    elif any(conv._reversed_padding_repeated_twice):
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        x = F.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
    x = x[..., offset[0] * conv.stride[0] :, offset[1] * conv.stride[1] :]
    stride = (conv.stride[0] * step[0], conv.stride[1] * step[1])
    rows = F.unfold(x, conv.kernel_size, conv.dilation, 0, stride)  # [n, D, positions]
    return rows.transpose(1, 2).flatten(0, 1)


class Moments:
    """Running first and second moments of patches x and outputs y of one convolution.

    Args:
        seed: decides which positions of large maps are sampled.
    """

    def __init__(self, conv: nn.Conv2d, seed: int = 0):
        self.conv = conv
        self.count = 0
        out, depth = conv.out_channels, conv.weight[0].numel()
        new = {"dtype": torch.float64, "device": conv.weight.device}
        self._x, self._y = torch.zeros(depth, **new), torch.zeros(out, **new)
        self._xx, self._yx = torch.zeros(depth, depth, **new), torch.zeros(out, depth, **new)
        self._random = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def update(self, x: Tensor, y: Tensor) -> None:
        """Add one batch: what the convolution reads, `[n, in, h, w]`, and the output wanted."""
        height, width = y.shape[-2:]
        step = math.ceil((height * width / POSITIONS) ** 0.5)
        step = min(step, height), min(step, width)
        offset = tuple(torch.randint(s, (), generator=self._random).item() for s in step)
        y = y[..., offset[0] :: step[0], offset[1] :: step[1]].flatten(2)  # [n, out, positions]
        y = y.transpose(1, 2).flatten(0, 1).float()
        x = patches(self.conv, x, step, offset).float()
        if not self.count:  # subtle: far from zero, uncentred float32 sums would cancel
            self._origin_x, self._origin_y = x.mean(0), y.mean(0)
        x, y = x - self._origin_x, y - self._origin_y
        self.count += len(x)
        self._x += x.sum(0, dtype=torch.float64)
        self._y += y.sum(0, dtype=torch.float64)
        self._xx += x.T @ x
        self._yx += y.T @ x

    @property
    def mean_x(self) -> Tensor:
        return self._origin_x.double() + self._x / self.count

    @property
    def mean_y(self) -> Tensor:
        return self._origin_y.double() + self._y / self.count

    def problem(self, weight: Tensor, shrink: float) -> LeastSquares:
        """The fit to the outputs seen, drawn towards `weight` where inputs are scarce.

        Both moments are centred; the means are matched by the bias. `shrink` adds that
        fraction of the mean variance to every direction of x, as if `weight` had been
        applied to white noise there: E[xx'] + aI, E[yx'] + aW.

        Args:
            weight: `[out, in, kh, kw]`, the dense kernel.
        """
        moment = self._xx / self.count - torch.outer(self._x, self._x) / self.count**2
        cross = self._yx / self.count - torch.outer(self._y, self._x) / self.count**2
        noise = shrink * moment.diagonal().mean().clamp_min(1e-12)
        moment.diagonal().add_(noise)
        return LeastSquares(cross + noise * weight.flatten(1).to(moment), moment)
