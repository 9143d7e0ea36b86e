"""The mathematics of fitting: structured least squares under the moments of real inputs.

A form writes its kernel as W = A M: a *basis* M `[R, D]` of structured rows and a mix
A `[out, R]`. For a fixed basis the best mix is a linear solve, so the fit searches over
the basis alone (variable projection: Golub & Pereyra 1973), by L-BFGS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..support.threads import using_threads

CHUNK = 10  # steps of a search that must lower the error by LEAST_GAIN, or it ends
LEAST_GAIN = 1e-3
SINGLE_FROM = 256  # patch length from which float32 is used: twice as fast, and no worse (measured)


def working_dtype(depth: int) -> torch.dtype:
    """The dtype to fit a kernel of `depth` weights per output channel in."""
    return torch.float32 if depth >= SINGLE_FROM else torch.float64


class Fitted(NamedTuple):
    """A form's layers with their weights.

    Attributes:
        weights: of the layers, in order.
        left: `[out, out]`, E[e e^T] of the output error e = T x - W x that they leave.
    """

    weights: list[Tensor]
    left: Tensor

    def turned(self, turn: Tensor) -> Fitted:
        """With outputs multiplied by `turn` `[out, out]`, where the last layer mixes all."""
        *others, last = self.weights
        last = (turn @ last.flatten(1)).view_as(last)
        return Fitted([*others, last], turn @ self.left @ turn.T)


class Refined(NamedTuple):
    """What a search over the basis found.

    Attributes:
        factors: of the basis.
        mix: A `[out, R]`, the best for it.
        left: `[out, out]`, E[e e^T] of the output error e that remains.
    """

    factors: list[Tensor]
    mix: Tensor
    left: Tensor


class LeastSquares:
    """Find W near the minimum of E||T x - W x||^2, given the second moments of x.

    The work is done in the dtype of the two tensors.

    Args:
        target: `[out, D]`, T: what a form would spell at full rank.
        moment: `[D, D]`, S = E[x x^T], symmetric positive definite; default: that of white inputs.
        dense: `[out, D]`, the kernel that is replaced, where the target is not it.
    """

    def __init__(self, target: Tensor, moment: Tensor | None = None, dense: Tensor | None = None):
        self.target, self.dense, self.white = target, dense, moment is None
        self.moment = torch.eye(target.shape[1]).to(target) if moment is None else moment
        self._found: dict[str, Tensor] = {}

    def of(self, outputs: Tensor, inputs: Tensor) -> LeastSquares:
        """The same for some of the outputs and of the inputs, by their numbers."""
        moment = None if self.white else self.moment[inputs][:, inputs]
        return LeastSquares(self.target[outputs][:, inputs], moment)

    def turned(self, turn: Tensor) -> LeastSquares:
        """The same with all outputs multiplied by `turn` `[out, out]`."""
        dense = self.dense if self.dense is None else turn @ self.dense
        return LeastSquares(turn @ self.target, None if self.white else self.moment, dense)

    def measured(self, rows: Tensor) -> Tensor:
        """`rows` `[n, D]` times S, which costs nothing where inputs are white."""
        return rows if self.white else rows @ self.moment

    @cached_property
    def cross(self) -> Tensor:
        """T S `[out, D]`: the outputs wanted against the inputs seen."""
        return self.measured(self.target)

    @cached_property
    def outputs(self) -> Tensor:
        """T S T^T `[out, out]`: second moments of the outputs wanted."""
        return self.cross @ self.target.T

    @cached_property
    def energy(self) -> float:
        """E||T x||^2; errors are fractions of it."""
        return max(self.outputs.trace().item(), torch.finfo(self.cross.dtype).tiny)

    @property
    def norm(self) -> Tensor:
        """Squared norm of the kernel that is replaced."""
        return (self.target if self.dense is None else self.dense).square().sum()

    def once(self, name: str, find: Callable[[], Tensor]) -> Tensor:
        """What `find` gives, under a name of the caller's choice: found once for all ranks."""
        if name not in self._found:
            self._found[name] = find()
        return self._found[name]

    @property
    def principal(self) -> Tensor:
        """Orthonormal directions of the outputs T x, as columns `[out, min(out, D)]`, largest
        first; no other has power."""

        def find() -> Tensor:
            out, depth = self.target.shape
            if out <= depth:
                return leading(self.outputs, out)
            frame, inner = torch.linalg.qr(self.target)  # of an expansion by 4, 64 times cheaper
            return frame @ leading(self.measured(inner) @ inner.T, depth)

        return self.once("outputs", find)

    def left(self, weight: Tensor) -> Tensor:
        """Second moments `[out, out]` of the output error of a kernel `[out, D]`."""
        gap = weight - self.target
        return self.measured(gap) @ gap.T

    def error(self, weight: Tensor) -> float:
        """Relative squared output error of a kernel `[out, D]`: 0 exact, 1 no better than zero."""
        return self.left(weight).trace().item() / self.energy

    def refine(
        self,
        factors: Sequence[Tensor],
        basis: Callable[..., Tensor],
        steps: int,
        *,
        apply: Callable[..., Tensor] | None = None,
        ridge: float = 0.0,
    ) -> Refined:
        """Improve `factors` by up to `steps` of L-BFGS on the error left after the best mix.

        Args:
            factors: where to start; each is a leaf of the search.
            basis: factors -> M `[R, D]`.
            steps: 0 keeps the start and only solves for the mix.
            apply: (X `[n, D]`, factors) -> X M^T `[n, R]`, where the structure of M makes
                that cheaper than the product.
            ridge: penalty on the squared norm of the mix, as a fraction of the mean input
                power. With rows of unit norm it bounds terms that cancel (Phan et al. 2020).
        """

        penalty = ridge * self.moment.diagonal().mean().item()
        leaves = [f.detach().clone().requires_grad_() for f in factors]

        seen_at: list[Tensor] = []  # the factors that were looked at last, and their error
        error = torch.tensor(math.inf)

        def closure() -> Tensor:
            nonlocal seen_at, error
            if seen_at and all(map(torch.equal, leaves, seen_at)):
                return error  # ten steps more start where ten have ended
            seen_at = [leaf.detach().clone() for leaf in leaves]
            for leaf in leaves:
                leaf.grad = None
            with torch.enable_grad():
                seen = self._seen(leaves, basis, apply)
            with torch.no_grad():  # subtle: the mix is the best one, so it counts as constant
                mix = seen.mix(penalty)
                scaled = mix * (2 / self.energy)
                torch.autograd.backward([seen.gram, seen.wanted], [scaled.T @ mix, -scaled])
                error = 1 - (seen.wanted * mix).sum() / self.energy
            return error

        if steps:
            optimizer = torch.optim.LBFGS(
                leaves, max_iter=min(steps, CHUNK), history_size=12, tolerance_grad=1e-12,
                tolerance_change=1e-12, line_search_fn="strong_wolfe",
            )  # fmt: skip
            last = math.inf
            for _ in range(-(-steps // CHUNK)):
                start = optimizer.step(closure).item()  # the error where these steps started
                if start > (1 - LEAST_GAIN) * last:
                    break
                last = start
        factors = [leaf.detach() for leaf in leaves]
        seen = self._seen(factors, basis, apply)
        mix = seen.mix(penalty)
        captured = mix @ seen.wanted.T
        left = self.outputs - captured - captured.T + mix @ seen.gram @ mix.T
        return Refined(factors, mix, left)

    def leading(
        self,
        factors: Sequence[Tensor],
        sizes: Sequence[int],
        *,
        basis: Callable[..., Tensor] | None = None,
        apply: Callable[..., Tensor] | None = None,
        ridge: float = 0.0,
    ) -> list[Tensor]:
        """What the best mix leaves of the outputs, `[out, out]`, with the first rows of a basis
        only, for several numbers of rows at the cost of one.

        The leading block of a Cholesky factor is the factor of the leading block, so one
        factorisation of all rows holds those of fewer.

        Args:
            sizes: how many rows.
            factors, basis, apply, ridge: as for `refine`, of the whole basis; one of `basis` and
                `apply`.
        """
        penalty = ridge * self.moment.diagonal().mean().item()
        seen = self._seen(factors, basis, apply)
        factor = seen.factor(penalty)
        solved = torch.linalg.solve_triangular(factor, seen.wanted.T, upper=False)  # [R, out]
        found = []
        for size in sizes:
            some = solved[:size]
            left = self.outputs - some.T @ some
            if penalty:
                mix = torch.linalg.solve_triangular(factor[:size, :size].T, some, upper=True)
                left = left - penalty * (mix.T @ mix)
            found.append(left)
        return found

    def _seen(
        self,
        factors: Sequence[Tensor],
        basis: Callable[..., Tensor] | None,
        apply: Callable[..., Tensor] | None,
    ) -> _Seen:
        """What a basis M sees."""
        # subtle: only one M of the gram matrix has a gradient, which is half of the whole one
        if apply:
            measured = apply(self.moment, *factors).detach().T
            return _Seen(apply(measured, *factors), apply(self.cross, *factors))
        rows = basis(*factors)
        return _Seen(self.measured(rows).detach() @ rows.T, self.cross @ rows.T)


class _Seen(NamedTuple):
    """What a basis M sees.

    Attributes:
        gram: M S M^T `[R, R]`.
        wanted: T S M^T `[out, R]`.
    """

    gram: Tensor
    wanted: Tensor

    def factor(self, penalty: float) -> Tensor:
        """Cholesky factor of the gram matrix with a penalty on its diagonal."""
        regular = (self.gram + self.gram.T) / 2
        regular.diagonal().add_(penalty)
        return cholesky(regular)

    def mix(self, penalty: float) -> Tensor:
        """The best A `[out, R]`."""
        return torch.cholesky_solve(self.wanted.T, self.factor(penalty)).T


def cholesky(gram: Tensor) -> Tensor:
    """Cholesky factor of a positive semi-definite matrix, with the least jitter that works."""
    jitter, numbers = 0.0, torch.finfo(gram.dtype)
    # of what layers of zeros see: not so small that a jitter of it is none
    scale = gram.diagonal().mean().clamp_min(numbers.tiny / numbers.eps)
    regular = gram
    while True:
        factor, info = torch.linalg.cholesky_ex(regular)
        if info.item() == 0 and factor.diagonal().isfinite().all():  # so are the rows, then
            return factor
        jitter = max(jitter * 10, 10 * numbers.eps)
        regular = gram + (jitter * scale).expand(len(gram)).diag()
        if jitter > 1:
            raise FloatingPointError("moments are not finite or not positive semi-definite")


def root(moment: Tensor) -> Tensor:
    """Symmetric square root of one or a batch of positive semi-definite matrices `[..., n, n]`."""
    values, vectors = _eigen(moment)
    return ((vectors * values.clamp_min(0).sqrt().unsqueeze(-2)) @ vectors.mT).to(moment)


def leading(gram: Tensor, count: int) -> Tensor:
    """The `count` leading eigenvectors of symmetric `[..., n, n]`, as columns, largest first."""
    return _eigen(gram)[1][..., -count:].flip(-1).to(gram)


def _eigen(gram: Tensor) -> tuple[Tensor, Tensor]:
    symmetric = (gram + gram.mT) / 2
    with using_threads(1):  # a second one gains little, and can cost much: see `side_by_side`
        try:
            return torch.linalg.eigh(symmetric)
        except torch.linalg.LinAlgError:  # in float32, on moments of few images
            return torch.linalg.eigh(symmetric.double())
