"""The separable forms: one file each, the only place that knows a form's algebra.

Every form spells a kernel `[out, in, kh, kw]` as a few plain convolutions in a row.
All but `blueprint` share one shape: written as a matrix over input patches,

    W_hat = A M        A: [out, R] mixes,  M: [R, in*kh*kw] measures,

where the rows of the *basis* M are patches of a special structure (rank one over channels
and space, one channel only, one column only, ...) and the last convolution holds A. Given
M the best A is a linear solve (`fit.py`), so a form says how its basis is built, where to
start, and which layers spell it. To add one, write its file and list it in `FORMS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Protocol

from torch import Tensor

from ..errors import RankError
from ..plans import Rank
from . import blueprint, bottleneck, channel, separable, spatial, tucker
from .dense import PLAIN, REPLACEABLE, SAME, TRANSPOSED, is_transposed, kernel_of, turned, unit_of
from .layer import Kernel, Layer, in_groups
from .least_squares import Fitted, LeastSquares
from .replacement import (
    Factorized,
    become_,
    build,
    check_pads,
    in_a_row,
    pad_ends_,
    write_,
    write_kernel_,
)

__all__ = [
    "FORMS", "PLAIN", "REPLACEABLE", "SAME", "TRANSPOSED", "Factorized", "Form", "Kernel", "Layer",
    "Rank", "become_", "build", "check_pads", "check_rank", "in_a_row", "in_groups",
    "is_transposed", "kernel_of", "pad_ends_", "ranks", "turned", "unit_of", "write_",
    "write_kernel_",
]  # fmt: skip


class Form(Protocol):
    """What each module of this package provides.

    Attributes:
        TRIAL_STEPS: refinement that is worth its time while forms are compared. Measured on
            layers of three networks, 100 steps lower the error of the starts of `spatial`,
            `channel` and `tucker` by 0-10 %, of `separable` and `blueprint` by up to 30 %, and
            of `bottleneck` by up to 85 %. A form with any also has
        GROWS: whether what refinement takes off the logarithm of the damage grows in proportion
            to the rank, or is much the same for all ranks.
        LEAST_LEFT: of the error of a start, what refinement leaves at least.
        TRIAL_OUTPUTS: how many output channels tell what refinement gains on all, where each is
            a problem of its own; None where they are one.
    """

    TRIAL_STEPS: int

    def applies(self, kernel: Kernel) -> bool:
        """Whether the form can spell anything cheaper than this kernel."""

    def full_rank(self, kernel: Kernel) -> Rank | None:
        """The rank from which every kernel is spelled exactly; None if there is none."""

    def layers(self, kernel: Kernel, rank: Rank) -> list[Layer]:
        """The convolutions this form becomes, in execution order."""

    def fit(self, problem: LeastSquares, kernel: Kernel, rank: Rank, steps: int) -> Fitted:
        """The weights of those layers that solve `problem` best, after `steps` of refinement."""

    def start_errors(
        self, problem: LeastSquares, kernel: Kernel, ranks: Sequence[Rank]
    ) -> list[Tensor]:
        """By rank, what `fit` without refinement leaves of the outputs, `[out, out]`; for little
        more than the cost of the largest."""

    def spell(self, weights: Sequence[Tensor], kernel: Kernel) -> Tensor:
        """The dense kernel `[out, in*kh*kw]` that the weights amount to."""


FORMS: dict[str, Form] = {
    "separable": separable,
    "blueprint": blueprint,
    "bottleneck": bottleneck,
    "spatial": spatial,
    "channel": channel,
    "tucker": tucker,
}


def check_rank(form: str, kernel: Kernel, rank: Rank) -> None:
    """Raise `RankError` unless `form` has this rank for this kernel."""
    if form not in FORMS:
        raise RankError(f"unknown form {form!r}", do=f"choose one of {', '.join(FORMS)}")
    if not FORMS[form].applies(kernel):
        raise RankError(f"form {form!r} does not apply to a kernel of shape {list(kernel)}")
    full = FORMS[form].full_rank(kernel) or 1
    wanted = rank if isinstance(rank, tuple) else (rank,)
    limits = full if isinstance(full, tuple) else (full,)
    if len(wanted) != len(limits) or not all(
        isinstance(r, int) and 1 <= r <= limit for r, limit in zip(wanted, limits, strict=True)
    ):
        raise RankError(
            f"rank {rank} of form {form!r} is not in 1..{full} for a kernel of shape {list(kernel)}"
        )


@cache
def ranks(form: str, kernel: Kernel, count: int) -> tuple[Rank, ...]:
    """About `count` ranks of a form on a geometric grid of weights, up to the dense kernel's.

    Large ranks are multiples of 8, which vector units like; small ones of 4 or 2.
    """
    full = FORMS[form].full_rank(kernel)
    if full is None:
        return (1,)
    dense = kernel.out_channels * kernel.patch
    found: list[Rank] = []
    for step in range(count):
        share = 0.06 * (0.95 / 0.06) ** (step / max(count - 1, 1))
        if isinstance(full, tuple):
            rank = tuple(_largest(form, kernel, full, share * dense))
        else:
            rank = _largest(form, kernel, (full,), share * dense)[0]
        if rank not in found:
            found.append(rank)
    return tuple(found)


def _largest(form: str, kernel: Kernel, full: tuple[int, ...], weights: float) -> list[int]:
    """The largest rank, in fixed proportion to `full`, within a number of weights."""

    @cache  # most of the steps below come to a rank that was looked at
    def fits(*rank: int) -> bool:
        layers = FORMS[form].layers(kernel, rank if len(rank) > 1 else rank[0])
        return sum(layer.weights for layer in layers) <= weights

    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        if fits(*(max(1, round(middle * f)) for f in full)):
            low = middle
        else:
            high = middle
    return [_snap(max(1, round(low * f))) for f in full]


def _snap(rank: int) -> int:
    unit = 8 if rank >= 48 else 4 if rank >= 24 else 2 if rank >= 8 else 1
    return rank // unit * unit
