"""Second moments of what a convolution reads and writes, gathered over calibration images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn

from ..errors import ConversionError
from ..forms.least_squares import LeastSquares, cholesky, working_dtype
from ..network.calls import Batch
from ..network.lockstep import walk
from ..network.sites import Site
from ..network.sums import undo_norms

SHRINK = 3e-3  # least part of the mean variance that is added to every direction
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)  # tried for the correction, of the mean variance
PATCH_BYTES = 1 << 27  # of unfolded patches at a time
POSITIONS = 1024  # sampled per image at most; neighbouring patches are nearly copies


def gather(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    seed: int,
    changed: nn.Module | None = None,
) -> Iterator[tuple[Site, Moments]]:
    """Walk over the images once and yield every site with its moments, in execution order.

    A site comes when its last call has been seen; its moments are then the caller's only.

    Args:
        changed: a network run side by side: x is what it reads, y what `model` writes. It goes
            on through a site only after the caller has asked for the next one. Where a site
            feeds a sum, y also makes up for what differs in the other addend by then, so that
            the sum is matched (as He et al. 2017 do for residual blocks).

    Raises:
        ConversionError: some sites are not reached by the images as by a blank one.
    """
    waiting = {site.path: site for site in sites}
    calls = dict.fromkeys(waiting, 0)
    moments: dict[str, Moments] = {}
    sums = {s.path: s.sum for s in sites if s.sum} if changed is not None else {}
    taps = {path: sum_.other for path, sum_ in sums.items()}
    for stop in walk(model, list(waiting), batches, changed, taps) if sites else ():
        if stop.path not in waiting:
            continue
        site = waiting[stop.path]
        if site.path not in moments:
            moments[site.path] = Moments(model.get_submodule(site.path), seed)
        nothing = [(None, None)] * len(stop.pairs)
        for (x, y), (ours, theirs) in zip(stop.pairs, stop.kept or nothing, strict=True):
            if ours is not None and theirs is not None:
                y = y + (theirs - ours) * undo_norms(model, sums[site.path].norms, y)
            moments[site.path].update(x, y)
        calls[site.path] += 1
        if calls[site.path] == site.calls:
            del waiting[site.path]
            yield site, moments.pop(site.path)
    if waiting:
        raise ConversionError(
            f"not all images run through {', '.join(sorted(waiting))} as the first one does",
            do="give images that do, or a plan without these layers",
        )


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

    They are kept in two halves, images in turn, so that what one half suggests can be tried
    on the other.

    Args:
        seed: decides which positions of large maps are sampled.
    """

    def __init__(self, conv: nn.Conv2d, seed: int = 0):
        self.conv = conv
        out, depth = conv.out_channels, conv.weight[0].numel()
        new = {"dtype": torch.float64, "device": conv.weight.device}
        self._count = [0, 0]
        self._x, self._y = torch.zeros(2, depth, **new), torch.zeros(2, out, **new)
        self._xx, self._yx = torch.zeros(2, depth, depth, **new), torch.zeros(2, out, depth, **new)
        self._images = 0
        self._random = torch.Generator().manual_seed(seed)

    @property
    def count(self) -> int:
        """Samples seen: positions, over all images."""
        return sum(self._count)

    @property
    def mean_x(self) -> Tensor:
        return self._origin_x.double() + self._x.sum(0) / self.count

    @property
    def mean_y(self) -> Tensor:
        return self._origin_y.double() + self._y.sum(0) / self.count

    @torch.no_grad()
    def update(self, x: Tensor, y: Tensor) -> None:
        """Add one batch: what the convolution reads, `[n, in, h, w]`, and the output wanted."""
        height, width = y.shape[-2:]
        step = math.ceil((height * width / POSITIONS) ** 0.5)
        step = min(step, height), min(step, width)
        offset = tuple(torch.randint(s, (), generator=self._random).item() for s in step)
        y = y[..., offset[0] :: step[0], offset[1] :: step[1]].flatten(2).mT.float()
        row = 4 * self.conv.weight[0].numel() * y.shape[1]
        some = max(PATCH_BYTES // row, 1)
        for inputs, outputs in zip(x.split(some), y.split(some), strict=True):
            rows = patches(self.conv, inputs, step, offset).reshape(*outputs.shape[:2], -1).float()
            self._add(rows, outputs)

    def _add(self, x: Tensor, y: Tensor) -> None:
        """Patches `[n, positions, D]` and outputs `[n, positions, out]` of some images."""
        if not self._images:  # subtle: far from zero, uncentred float32 sums would cancel
            self._origin_x, self._origin_y = x.mean((0, 1)), y.mean((0, 1))
        for half in (0, 1):
            mine = slice((half + self._images) % 2, None, 2)
            rows = (x[mine] - self._origin_x).flatten(0, 1)
            outputs = (y[mine] - self._origin_y).flatten(0, 1)
            self._count[half] += len(rows)
            self._x[half] += rows.sum(0, dtype=torch.float64)
            self._y[half] += outputs.sum(0, dtype=torch.float64)
            self._xx[half] += rows.T @ rows
            self._yx[half] += outputs.T @ rows
        self._images += len(x)

    def problem(self, weight: Tensor, corrected: bool = False) -> LeastSquares:
        """The fit, in centred moments (the means are matched by the bias).

        The optimum is the dense kernel W, or, `corrected`, what maps the inputs seen best to
        the outputs wanted. Estimated from few images that would be noise where inputs are
        scarce, so it is drawn towards W,

            T = W + (E[yx'] - W S) (S + bI)^-1,    S = E[xx'],

        with the b for which T from either half of the images predicts the other half best.
        A part of the mean variance, D / samples, is added to S in every direction: the fewer
        positions were seen, the less their moments say about others. (Measured on a 29-layer
        network and 128 photographs: R2 of its output at half the MACs 0.75 -> 0.84.)

        Args:
            weight: `[out, in, kh, kw]`, W.
        """
        moment, cross = self._centred([0, 1])
        weight = weight.flatten(1).to(moment)
        target = weight
        if corrected:
            ridge = self._ridge(weight, moment.diagonal().mean())
            target = weight + _correction(weight, moment, cross, ridge)
        share = min(max(len(moment) / self.count, SHRINK), 1.0)
        moment.diagonal().add_(share * moment.diagonal().mean().clamp_min(1e-12))
        return LeastSquares(target, moment, weight)

    def _ridge(self, weight: Tensor, scale: Tensor) -> float:
        """The b whose correction from one half lowers the error on the other half most."""
        if min(self._count) == 0:
            return math.inf
        halves = [self._centred([0]), self._centred([1])]
        best, least = math.inf, 0.0
        for share in RIDGES:
            ridge = share * scale.clamp_min(1e-12).item()
            change = 0.0
            for (moment, cross), (other, other_cross) in (halves, halves[::-1]):
                step = _correction(weight, moment, cross, ridge)
                gap = other_cross - weight @ other
                change += ((step @ other - 2 * gap) * step).sum().item()
            if change < least:
                best, least = ridge, change
        return best

    def _centred(self, halves: list[int]) -> tuple[Tensor, Tensor]:
        """E[xx'] `[D, D]` and E[yx'] `[out, D]` about the means, of some of the images."""
        count = sum(self._count[half] for half in halves)
        x, y = self._x[halves].sum(0) / count, self._y[halves].sum(0) / count
        moment = self._xx[halves].sum(0) / count - torch.outer(x, x)
        cross = self._yx[halves].sum(0) / count - torch.outer(y, x)
        dtype = working_dtype(len(moment))
        return moment.to(dtype), cross.to(dtype)


def weight_problem(conv: nn.Conv2d) -> LeastSquares:
    """The fit to the dense weights under white inputs."""
    weight = conv.weight.detach().flatten(1)
    weight = weight.to(working_dtype(weight.shape[1]))
    return LeastSquares(weight, torch.eye(weight.shape[1]).to(weight))


def _correction(weight: Tensor, moment: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """What to add to a kernel so that it predicts y from x, with a ridge: `[out, D]`."""
    if math.isinf(ridge):
        return torch.zeros_like(weight)
    regular = moment.clone()
    regular.diagonal().add_(ridge)
    return torch.cholesky_solve((cross - weight @ moment).T, cholesky(regular)).T
