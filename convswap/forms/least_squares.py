"""The mathematics of fitting: structured least squares under the moments of real inputs.

A form writes its kernel as W = A M: a *basis* M `[R, D]` of structured rows and a mix
A `[out, R]`. For a fixed basis the best mix is a linear solve, so the fit searches over
the basis alone (variable projection: Golub & Pereyra 1973), by L-BFGS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

CHUNK = 10  # steps of a search that must lower the error by LEAST_GAIN, or it ends
LEAST_GAIN = 5e-3
SINGLE_FROM = 1024  # patch length from which float32 is used: twice as fast, and D^2 is large


def working_dtype(depth: int) -> torch.dtype:
    """The dtype to fit a kernel of `depth` weights per output channel in."""
    return torch.float32 if depth >= SINGLE_FROM else torch.float64


class LeastSquares:
    """Find W near the minimum of E||T x - W x||^2, given the second moments of x.

    The work is done in the dtype of the two tensors.

    Args:
        target: `[out, D]`, T: what a form would spell at full rank.
        moment: `[D, D]`, S = E[x x^T], symmetric positive definite.
        dense: `[out, D]`, the kernel that is replaced, where the target is not it.
    """

    def __init__(self, target: Tensor, moment: Tensor, dense: Tensor | None = None):
        self.target, self.moment, self.dense = target, moment, dense
        self._directions: dict[str, Tensor] = {}

    @cached_property
    def cross(self) -> Tensor:
        """T S `[out, D]`: the outputs wanted against the inputs seen."""
        return self.target @ self.moment

    @cached_property
    def energy(self) -> float:
        """E||T x||^2; errors are fractions of it."""
        return max((self.cross * self.target).sum().item(), torch.finfo(self.cross.dtype).tiny)

    @property
    def norm(self) -> Tensor:
        """Squared norm of the kernel that is replaced."""
        return (self.target if self.dense is None else self.dense).square().sum()

    def directions(self, name: str, gram: Callable[[], Tensor]) -> Tensor:
        """Eigenvectors of a matrix `[n, n]`, as columns, largest first; found once for all ranks.

        Args:
            name: tells the matrices of a problem apart.
            gram: computes the matrix.
        """
        if name not in self._directions:
            matrix = gram()
            self._directions[name] = leading(matrix, len(matrix))
        return self._directions[name]

    @property
    def principal(self) -> Tensor:
        """Orthonormal directions of the outputs T x, as columns `[out, out]`, largest first."""
        return self.directions("outputs", lambda: self.cross @ self.target.T)

    def error(self, weight: Tensor) -> float:
        """Relative squared output error of a kernel `[out, D]`: 0 exact, 1 no better than zero."""
        gap = weight - self.target
        return ((gap @ self.moment) * gap).sum().item() / self.energy

    def refine(
        self,
        factors: Sequence[Tensor],
        basis: Callable[..., Tensor],
        steps: int,
        *,
        apply: Callable[..., Tensor] | None = None,
        ridge: float = 0.0,
    ) -> tuple[list[Tensor], Tensor]:
        """Improve `factors` by up to `steps` of L-BFGS on the error left after the best mix.

        Args:
            factors: where to start; each is a leaf of the search.
            basis: factors -> M `[R, D]`.
            steps: 0 keeps the start and only solves for the mix.
            apply: (X `[n, D]`, factors) -> X M^T `[n, R]`, where the structure of M makes
                that cheaper than the product.
            ridge: penalty on the squared norm of the mix, as a fraction of the mean input
                power. With rows of unit norm it bounds terms that cancel (Phan et al. 2020).

        Returns:
            The factors, and the mix A `[out, R]`.
        """
        apply = apply or (lambda x, *leaves: x @ basis(*leaves).T)
        penalty = ridge * self.moment.diagonal().mean().item()
        leaves = [f.detach().clone().requires_grad_() for f in factors]
        if steps:
            optimizer = torch.optim.LBFGS(
                leaves, max_iter=min(steps, CHUNK), history_size=12, tolerance_grad=1e-12,
                tolerance_change=1e-12, line_search_fn="strong_wolfe",
            )  # fmt: skip

            def closure() -> Tensor:
                optimizer.zero_grad()
                with torch.no_grad():
                    mix, measured, captured = self._mix(leaves, apply, penalty)
                    # subtle: the mix is optimal for these rows, so it counts as constant
                    gradient = mix.T @ (mix @ measured - self.cross) * (2 / self.energy)
                with torch.enable_grad():
                    rows = basis(*leaves)
                rows.backward(gradient)
                return 1 - captured / self.energy

            last = math.inf
            for _ in range(-(-steps // CHUNK)):
                error = optimizer.step(closure).item()  # where these steps started
                if error > (1 - LEAST_GAIN) * last:
                    break
                last = error
        factors = [leaf.detach() for leaf in leaves]
        return factors, self._mix(factors, apply, penalty)[0]

    def _mix(
        self, factors: Sequence[Tensor], apply: Callable[..., Tensor], penalty: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best A for a basis M, with M S `[R, D]`, and the output power it captures."""
        measured = apply(self.moment, *factors).T
        gram = apply(measured, *factors)
        gram = (gram + gram.T) / 2
        gram.diagonal().add_(penalty)
        wanted = apply(self.cross, *factors)  # [out, R]
        mix = torch.cholesky_solve(wanted.T, cholesky(gram)).T
        return mix, measured, (wanted * mix).sum()


def cholesky(gram: Tensor) -> Tensor:
    """Cholesky factor of a positive semi-definite matrix, with the least jitter that works."""
    jitter = 0.0
    scale = gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    while True:
        factor, info = torch.linalg.cholesky_ex(gram + jitter * scale * eye if jitter else gram)
        if info.item() == 0 and torch.isfinite(factor).all():
            return factor
        jitter = max(jitter * 10, 10 * torch.finfo(gram.dtype).eps)
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
    # subtle: in float32 LAPACK can fail to converge on moments of few images
    return torch.linalg.eigh((gram.double() + gram.double().mT) / 2)
