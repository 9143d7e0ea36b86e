"""The mathematics of fitting: structured least squares under the moments of real inputs.

A form writes its kernel as W = A M: a *basis* M `[R, D]` of structured rows and a mix
A `[out, R]`. For a fixed basis the best mix is a linear solve, so the fit searches over
the basis alone (variable projection: Golub & Pereyra 1973), by L-BFGS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

SINGLE_FROM = 1024  # patch length from which the search runs in float32, twice as fast


@dataclass(frozen=True)
class LeastSquares:
    """Find W near the minimum of E||y - W x||^2, given the second moments of x and y.

    Attributes:
        cross: `[out, D]`, E[y x^T]. For a fit to a known kernel T it is T S.
        moment: `[D, D]`, S = E[x x^T], symmetric positive definite.
    """

    cross: Tensor
    moment: Tensor

    @cached_property
    def target(self) -> Tensor:
        """The unrestricted optimum `[out, D]`: what a form would spell at full rank."""
        factor = cholesky(self.moment)
        return torch.cholesky_solve(self.cross.T, factor).T

    @cached_property
    def energy(self) -> float:
        """E||T x||^2 of the unrestricted optimum T; errors are fractions of it."""
        return max((self.cross * self.target).sum().item(), torch.finfo(self.cross.dtype).tiny)

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
        """Improve `factors` by `steps` of L-BFGS on the error left after the best mix.

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
        searched = self._single if len(self.moment) >= SINGLE_FROM else self
        leaves = [f.detach().clone().to(searched.moment).requires_grad_() for f in factors]
        if steps:
            optimizer = torch.optim.LBFGS(
                leaves, max_iter=steps, history_size=12, tolerance_grad=1e-12,
                tolerance_change=1e-12, line_search_fn="strong_wolfe",
            )  # fmt: skip

            def closure() -> Tensor:
                optimizer.zero_grad()
                with torch.no_grad():
                    mix, measured, captured = searched._mix(leaves, apply, penalty)
                    # subtle: the mix is optimal for these rows, so it counts as constant
                    gradient = mix.T @ (mix @ measured - searched.cross) * (2 / self.energy)
                with torch.enable_grad():
                    rows = basis(*leaves)
                rows.backward(gradient)
                return 1 - captured / self.energy

            optimizer.step(closure)
        factors = [leaf.detach().to(self.moment) for leaf in leaves]
        return factors, self._mix(factors, apply, penalty)[0]

    @cached_property
    def _single(self) -> LeastSquares:
        return LeastSquares(self.cross.float(), self.moment.float())

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
    values, vectors = torch.linalg.eigh(moment)
    return (vectors * values.clamp_min(0).sqrt().unsqueeze(-2)) @ vectors.mT


def leading(gram: Tensor, count: int) -> Tensor:
    """The `count` leading eigenvectors of symmetric `[..., n, n]`, as columns, largest first."""
    return torch.linalg.eigh(gram).eigenvectors[..., -count:].flip(-1)
