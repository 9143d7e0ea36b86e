"""Second moments of what a layer reads and writes, and the fits that follow from them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..forms import REPLACEABLE, Kernel, is_transposed, kernel_of, unit_of
from ..forms.least_squares import LeastSquares, cholesky, working_dtype
from ..network.observe import MOST_READ
from ..support.ranks import gathered, led_, sum_
from ..support.threads import at_once
from .rows import add_gram, lengths, outputs, patches

SHRINK = 3e-3  # least part of the mean variance that is added to every direction
RIDGES = (1.0, 1e-1, 1e-2, 1e-3)  # tried for the correction, of the mean variance
LARGE = 1024  # numbers read, from which one half alone is tried on the other
SKETCH = 64  # mixtures of the outputs that stand in for all, while ridges are compared
ROUNDING = 1e-8  # of a mean squared: variance below it can be what rounding has left
PATCH_BYTES = 1 << 27  # of unfolded patches at a time
FIT_COPIES = 10  # of the moments, while a layer is fitted
POSITIONS = 1024  # sampled per image at most; neighbouring patches are nearly copies
SAMPLES = 512  # of all images together, for each number that a layer reads; more tell little


class Moments:
    """Running first and second moments of patches x and outputs y of one layer, for each of its
    groups of channels.

    They are kept in two halves, images in turn, so that what one half suggests can be tried
    on the other; and of patches tap by tap, as `patches` come.

    Args:
        seed: decides which positions of large maps are sampled.
        images: how many will come; the more, the fewer positions are taken of each.
        crossed: whether inputs are set against outputs, which only a correction needs.
        samples: as for `gather`.
    """

    def __init__(
        self,
        layer: nn.Module,
        seed: int = 0,
        images: int = 1,
        crossed: bool = True,
        samples: int = SAMPLES,
    ):
        self.layer, self._crossed = layer, crossed
        groups, unit = getattr(layer, "groups", 1), unit_of(layer)
        out, depth = unit.out_channels, unit.patch
        self._positions = min(math.ceil(samples * depth / images), POSITIONS)
        device, dtype = layer.weight.device, working_dtype(depth)
        self._count = [0, 0]
        self._x, self._y = (
            torch.zeros(2, groups, n, dtype=torch.float64, device=device) for n in (depth, out)
        )
        self._xx = torch.zeros(2, groups, depth, depth, dtype=dtype, device=device)
        self._yx = torch.zeros(2, groups, out, depth, dtype=dtype, device=device)
        self._images = 0
        self._random = torch.Generator().manual_seed(seed)

    def join_(self) -> None:
        """Count in what other processes have seen."""
        sum_(self._x, self._y, self._xx, self._yx)
        self._count = [sum(counts) for counts in zip(*gathered(self._count), strict=True)]

    @property
    def count(self) -> int:
        """Samples seen: positions, over all images."""
        return sum(self._count)

    @property
    def mean_x(self) -> Tensor:
        """`[groups, D]`."""
        return self._in_order(self._origin_x.double() + self._x.sum(0) / self.count)

    @property
    def mean_y(self) -> Tensor:
        """`[groups, out]`."""
        return self._origin_y.double() + self._y.sum(0) / self.count

    @property
    def finite(self) -> bool:
        """Whether all sums are numbers; no product is larger than the squares on the diagonal."""
        squares = self._xx.diagonal(dim1=-2, dim2=-1)
        return all(bool(each.isfinite().all()) for each in (squares, self._yx))

    @torch.no_grad()
    def update(self, x: Tensor, y: Tensor) -> None:
        """Add one batch: what the layer reads, and the output wanted."""
        if not y.numel():  # nothing was found in these images
            return
        axes = lengths(self.layer, y)
        every = math.ceil((math.prod(axes) / self._positions) ** (1 / len(axes)))
        strides = self.layer.stride if is_transposed(self.layer) else (1,) * len(axes)
        step = tuple(
            min(_apart(every, stride), length) for length, stride in zip(axes, strides, strict=True)
        )
        offset = tuple(torch.randint(s, (), generator=self._random).item() for s in step)
        y = outputs(self.layer, y, step, offset).float()
        row = 4 * unit_of(self.layer).patch * y[0, ..., 0].numel()
        some = max(PATCH_BYTES // row, 1)
        for inputs, wanted in zip(x.split(some), y.split(some), strict=True):
            self._add(patches(self.layer, inputs, step, offset, axes).flatten(3).float(), wanted)

    def _add(self, x: Tensor, y: Tensor) -> None:
        """Patches `[n, positions, groups, D]` and outputs of some images."""
        if not self._images:  # subtle: far from zero, uncentred float32 sums would cancel
            self._origin_x, self._origin_y = x.mean((0, 1)), y.mean((0, 1))
            led_(self._origin_x, self._origin_y)
        for half in (0, 1):
            mine = slice((half + self._images) % 2, None, 2)
            rows = (x[mine] - self._origin_x).flatten(0, 1).transpose(0, 1)  # [groups, N, D]
            wanted = (y[mine] - self._origin_y).flatten(0, 1).transpose(0, 1)
            self._count[half] += rows.shape[1]
            self._x[half] += rows.sum(1)
            self._y[half] += wanted.sum(1)
            add_gram(self._xx[half], rows)
            if self._crossed:
                self._yx[half] += wanted.mT @ rows
        self._images += len(x)

    def problems(self, corrected: bool = False) -> list[LeastSquares]:
        """The fit of every group of channels; see `problem`."""
        groups = len(self.mean_x)
        weights = kernel_of(self.layer).detach().unflatten(0, (groups, -1))
        return [self.problem(weight, corrected, group) for group, weight in enumerate(weights)]

    def problem(self, weight: Tensor, corrected: bool = False, group: int = 0) -> LeastSquares:
        """The fit of one group, in centred moments (the means are matched by the bias).

        The optimum is the dense kernel W, or, `corrected`, what maps the inputs seen best to
        the outputs wanted. Estimated from few images that would be noise where inputs are
        scarce, so it is drawn towards W,

            T = W + (E[yx'] - W S) (S + bI)^-1,    S = E[xx'],

        with the b for which T from either half of the images (of large layers, from one) predicts
        the other half best.
        A part of the mean variance, D / samples, is added to S in every direction: the fewer
        positions were seen, the less their moments say about others. (Measured on a 29-layer
        network and 128 photographs: R2 of its output at half the MACs 0.75 -> 0.84.)

        Args:
            weight: `[out, in, *size]`, W.
        """
        moment, cross = self._centred([0, 1], group)
        weight = weight.flatten(1).to(moment)
        target = weight
        if corrected:
            least = ROUNDING * self.mean_x[group].square().mean()
            scale = moment.diagonal().mean().clamp_min(least)
            taps = self._by_taps(weight)
            ridge = self._ridge(taps, scale, group)
            if math.isfinite(ridge):
                target = weight + self._in_order(_ridged(cross - taps @ moment, moment, ridge))
        moment = self._in_order(self._in_order(moment).mT)
        share = min(max(len(moment) / self.count, SHRINK), 1.0)
        moment.diagonal().add_(share * moment.diagonal().mean().clamp_min(1e-12))
        return LeastSquares(target, moment, weight)

    def _ridge(self, weight: Tensor, scale: Tensor, group: int) -> float:
        """The b whose correction from one half lowers the error on the other half most."""
        if min(self._count) == 0:
            return math.inf
        halves = []
        for half in (0, 1):
            moment, cross = self._centred([half], group)
            halves.append((moment, _sketch(cross) - _sketch(weight) @ moment))
        ways = (halves, halves[::-1])[: 1 if len(halves[0][0]) >= LARGE else 2]
        best, least = math.inf, 0.0
        for share in RIDGES:
            ridge, change = share * scale.clamp_min(1e-12).item(), 0.0
            for (moment, gap), (other, other_gap) in ways:
                step = _ridged(gap, moment, ridge)
                change += ((step @ other - 2 * other_gap) * step).sum().item()
            if change >= least:  # it falls with the ridge, and then rises
                break
            best, least = ridge, change
        return best

    def _centred(self, halves: list[int], group: int) -> tuple[Tensor, Tensor]:
        """E[xx'] `[D, D]` and E[yx'] `[out, D]` about the means, of some of the images, with
        patches tap by tap."""
        count = sum(self._count[half] for half in halves)
        x, y = (sum(each[half, group] for half in halves) / count for each in (self._x, self._y))

        def about(sums: Tensor, mean: Tensor) -> Tensor:
            first, *others = (sums[half, group] for half in halves)
            total = sum(others, first)
            return torch.addr(total, mean.to(total), x.to(total), beta=1 / count, alpha=-1)

        return about(self._xx, x), about(self._yx, y)

    def _by_taps(self, columns: Tensor) -> Tensor:
        """`[..., D]` from the order of `weight.flatten(1)`, channel by channel, to tap by tap."""
        return columns.unflatten(-1, (-1, unit_of(self.layer).area)).mT.flatten(-2)

    def _in_order(self, columns: Tensor) -> Tensor:
        """`[..., D]` from tap by tap to the order of `weight.flatten(1)`, channel by channel."""
        return columns.unflatten(-1, (unit_of(self.layer).area, -1)).mT.flatten(-2)


def held_bytes(layer: nn.Module) -> int:
    """The memory that the moments of a layer take."""
    return 2 * getattr(layer, "groups", 1) * _square_bytes(unit_of(layer))


def fit_bytes(model: nn.Module) -> int:
    """The most memory that the moments of a network's layers and their fits take, of as many as
    are fitted at once."""

    def of(layer: nn.Module) -> int:
        unit = unit_of(layer)
        each = held_bytes(layer) + FIT_COPIES * _square_bytes(unit)
        return at_once() * each + 4 * min(PATCH_BYTES, 4 * unit.patch * 64 * POSITIONS)

    layers = [m for m in model.modules() if isinstance(m, REPLACEABLE)]
    return max([of(layer) for layer in layers if unit_of(layer).patch <= MOST_READ], default=0)


def _square_bytes(unit: Kernel) -> int:
    depth = unit.patch
    return working_dtype(depth).itemsize * depth * (depth + unit.out_channels)


def weight_problems(layer: nn.Module) -> list[LeastSquares]:
    """The fit of every group of channels to the dense weights under white inputs."""
    weights = kernel_of(layer).detach().flatten(1)
    weights = weights.to(working_dtype(weights.shape[1]))
    groups = getattr(layer, "groups", 1)
    return [LeastSquares(weight) for weight in weights.unflatten(0, (groups, -1))]


def _apart(every: int, stride: int) -> int:
    """A distance between samples that does not share a factor with the stride of a transposed
    layer, whose taps take turns in reading something: none is to be missed."""
    while math.gcd(every, stride) > 1:
        every += 1
    return every


def _ridged(gap: Tensor, moment: Tensor, ridge: float) -> Tensor:
    """The kernel `[n, D]` that predicts from x what has cross moments `gap`, with a ridge."""
    regular = moment.clone()
    regular.diagonal().add_(ridge)
    return torch.cholesky_solve(gap.T, cholesky(regular)).T


def _sketch(gap: Tensor) -> Tensor:
    """Some random mixtures of rows `[out, D]`, whose squares add up to about those of all."""
    if len(gap) <= SKETCH:
        return gap
    random = torch.Generator().manual_seed(0)
    signs = torch.randint(2, (SKETCH, len(gap)), generator=random).to(gap) * 2 - 1
    return signs @ gap / math.sqrt(SKETCH)
