"""Structured least squares: the mix is optimal, the search only improves, factors survive."""

from __future__ import annotations

import pytest
import torch
from helpers import moment, relative
from torch import Tensor

from convswap.forms import FORMS, Kernel, bottleneck, separable, spatial, tucker
from convswap.forms.least_squares import LeastSquares, cholesky, leading, root

KERNEL = Kernel(6, 4, 3, 3)
BASES = {
    "separable": lambda problem: ([separable._start(problem, KERNEL, 2)], separable._basis),
    "bottleneck": lambda problem: (bottleneck._start(problem, KERNEL, 8), bottleneck._basis),
    "spatial": lambda problem: (
        [spatial._start(problem, KERNEL, 3)],
        lambda vertical: spatial._basis(vertical, KERNEL),
    ),
    "tucker": lambda problem: (tucker._start(problem, KERNEL, (4, 2)), tucker._basis),
    "random rows": lambda problem: (
        [torch.randn(3, KERNEL.patch, dtype=torch.float64)],
        lambda rows: rows,
    ),
}


def sampled(samples: int = 400) -> tuple[Tensor, Tensor, LeastSquares]:
    """Inputs `[n, D]`, noisy outputs `[n, out]` and the problem of predicting these."""
    x = torch.randn(samples, 36, dtype=torch.float64) @ moment(36, 1, 0.5)
    y = x @ torch.randn(36, 6, dtype=torch.float64)
    y = y + 0.1 * y.std() * torch.randn_like(y)
    return x, y, LeastSquares(torch.linalg.lstsq(x, y).solution.T, x.T @ x / samples)


def mix_of(problem, basis, ridge=0.0):
    """The best mix for a fixed basis, with an absolute penalty on its squared norm."""
    return problem._seen([basis], lambda rows: rows, None).mix(ridge)


def test_cross_is_the_moment_of_inputs_and_outputs():
    x, y, problem = sampled()
    assert relative(problem.cross, y.T @ x / len(x)) < 1e-9


def test_principal_directions_hold_the_power_of_the_outputs_in_order():
    x, _, problem = sampled()
    outputs = x @ problem.target.T
    power = torch.linalg.svdvals(outputs).square()
    along = (outputs @ problem.principal).square().sum(0)
    assert relative(along, power) < 1e-9


def test_search_ends_when_it_gains_nothing_more():
    problem = sampled()[2]
    rows = problem.principal[:, :3].T @ problem.target  # the optimum of free rows
    seen = []

    def basis(rows: Tensor) -> Tensor:
        seen.append(rows)
        return rows

    problem.refine([rows], basis, 1000, apply=lambda x, rows: x @ rows.T)
    assert len(seen) < 60


def test_mix_is_the_least_squares_solution_on_the_measured_inputs():
    x, y, problem = sampled()
    basis = torch.randn(5, 36, dtype=torch.float64)
    wanted = torch.linalg.lstsq(x @ basis.T, y).solution.T
    assert relative(mix_of(problem, basis), wanted) < 1e-9


def test_ridge_is_the_least_squares_solution_with_penalty_rows():
    x, y, problem = sampled()
    basis = torch.randn(5, 36, dtype=torch.float64)
    penalty = (0.7 * len(x)) ** 0.5 * torch.eye(5, dtype=torch.float64)
    wanted = torch.linalg.lstsq(
        torch.cat([x @ basis.T, penalty]), torch.cat([y, torch.zeros(5, 6, dtype=torch.float64)])
    ).solution.T
    assert relative(mix_of(problem, basis, ridge=0.7), wanted) < 1e-9


def test_error_is_the_output_error_over_the_output_energy():
    x, _, problem = sampled()
    weight = problem.target + torch.randn_like(problem.target)
    wanted = (x @ (weight - problem.target).T).pow(2).sum() / (x @ problem.target.T).pow(2).sum()
    assert problem.error(weight) == pytest.approx(wanted.item())


def test_error_is_zero_for_the_target_and_one_for_nothing():
    problem = sampled()[2]
    assert problem.error(problem.target) == 0
    assert problem.error(torch.zeros(6, 36, dtype=torch.float64)) == pytest.approx(1)


@pytest.mark.parametrize("steps", [1, 2, 5, 12, 60])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", BASES)
def test_refining_is_never_worse_than_the_start(name: str, seed: int, steps: int):
    torch.manual_seed(seed)
    spd = moment(36, seed)
    problem = LeastSquares(torch.randn(6, 36, dtype=torch.float64), spd)
    start, basis = BASES[name](problem)
    before = problem.error(mix_of(problem, basis(*start)) @ basis(*start))
    factors, mix, _ = problem.refine(start, basis, steps)
    assert problem.error(mix @ basis(*factors)) <= before + 1e-12


@pytest.mark.parametrize("ridge", [0.0, 3e-3])
def test_refining_lowers_the_penalised_error(ridge: float):
    spd = moment(36, 3, 0.7)
    problem = LeastSquares(torch.randn(6, 36, dtype=torch.float64), spd)
    start, basis = BASES["bottleneck"](problem)
    absolute = ridge * spd.diagonal().mean().item()

    def objective(factors: list[Tensor], mix: Tensor) -> float:
        penalty = absolute * mix.pow(2).sum().item() / problem.energy
        return problem.error(mix @ basis(*factors)) + penalty

    before = objective(start, mix_of(problem, basis(*start), absolute))
    factors, mix, _ = problem.refine(start, basis, 40, ridge=ridge)
    after = objective(factors, mix)
    assert after < 0.95 * before


def test_refining_goes_on_where_the_error_is_already_small():
    """An optimum far below a good start is still looked for."""
    spd = moment(36, 1)
    torch.manual_seed(0)
    problem = LeastSquares(torch.randn(6, 36, dtype=torch.float64), spd)
    start = [spatial._start(problem, KERNEL, 8)]
    errors = []
    for steps in (0, 100):
        factors, mix, _ = problem.refine(start, lambda v: spatial._basis(v, KERNEL), steps)
        errors.append(problem.error(mix @ spatial._basis(*factors, KERNEL)))
    assert errors[0] < 1e-3
    assert errors[1] < 0.5 * errors[0]


def test_no_steps_keep_the_factors():
    problem = sampled()[2]
    start, basis = BASES["separable"](problem)
    factors, mix, _ = problem.refine(start, basis, 0)
    assert torch.equal(factors[0], start[0])
    torch.testing.assert_close(mix, mix_of(problem, basis(*start)))


@pytest.mark.parametrize(("form", "rank"), [("separable", 2), ("spatial", 3), ("tucker", (4, 2))])
def test_refining_takes_the_same_way_without_making_the_rows(form: str, rank):
    """The structure of a basis saves work, and changes nothing."""
    module, problem = FORMS[form], sampled()[2]
    start = module._start(problem, KERNEL, rank)
    factors = start if isinstance(start, list) else [start]
    extra = (KERNEL,) if form == "spatial" else ()
    found = [
        problem.refine(factors, lambda *f: module._basis(*f, *extra), 8, apply=apply).left
        for apply in (None, lambda x, *f: module._apply(x, *f, *extra))
    ]
    torch.testing.assert_close(*found)
    assert found[0].trace() < 0.999 * problem.refine(
        factors, lambda *f: module._basis(*f, *extra), 0).left.trace()  # fmt: skip


@pytest.mark.parametrize("ridge", [0.0, 3e-3])
def test_fewer_rows_leave_what_a_basis_of_them_alone_would(ridge: float):
    problem = sampled()[2]
    rows = torch.randn(12, 36, dtype=torch.float64)

    def apply(x: Tensor, rows: Tensor) -> Tensor:
        return x @ rows.T

    sizes = [1, 5, 12, 7]
    lefts = problem.leading([rows], sizes, apply=apply, ridge=ridge)
    for size, left in zip(sizes, lefts, strict=True):
        alone = problem.refine([rows[:size]], lambda rows: rows, 0, apply=apply, ridge=ridge)
        torch.testing.assert_close(left, alone.left)
        torch.testing.assert_close(left, problem.left(alone.mix @ rows[:size]))


def test_refining_leaves_the_start_as_it_was():
    problem = sampled()[2]
    start, basis = BASES["separable"](problem)
    kept = start[0].clone()
    problem.refine(start, basis, 5)
    assert torch.equal(start[0], kept)


@pytest.mark.parametrize("enabled", [True, False])
def test_refining_works_in_either_grad_mode(enabled: bool):
    problem = sampled()[2]
    start, basis = BASES["separable"](problem)
    with torch.set_grad_enabled(enabled):
        factors, mix, _ = problem.refine(start, basis, 5)
    assert not factors[0].requires_grad
    assert problem.error(mix @ basis(*factors)) < problem.error(
        mix_of(problem, basis(*start)) @ basis(*start)
    )


def test_repeated_rows_of_a_basis_are_survived():
    problem = sampled()[2]
    row = torch.randn(1, 36, dtype=torch.float64)
    mix = mix_of(problem, row.repeat(3, 1))
    assert relative(mix @ row.repeat(3, 1), mix_of(problem, row) @ row) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [0, 1, 5, 8])
def test_cholesky_survives_a_gram_of_any_rank(rank: int, dtype: torch.dtype):
    half = torch.randn(8, rank, dtype=dtype)
    gram = half @ half.T
    factor = cholesky(gram)
    scale = gram.diagonal().mean().item()
    torch.testing.assert_close(factor @ factor.T, gram, atol=1e-4 * scale + 1e-30, rtol=0)


def test_cholesky_adds_nothing_where_nothing_is_needed():
    gram = moment(8)
    assert torch.equal(cholesky(gram), torch.linalg.cholesky(gram))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", [(0, 0), (3, 1)])
def test_cholesky_refuses_what_is_not_finite(value: float, where: tuple[int, int]):
    gram = moment(5)
    gram[where] = gram[where[::-1]] = value
    with pytest.raises(FloatingPointError, match="not finite or not positive"):
        cholesky(gram)


def test_cholesky_refuses_a_negative_matrix():
    with pytest.raises(FloatingPointError, match="not finite or not positive"):
        cholesky(-torch.eye(4))


def test_root_squares_to_the_moment():
    batch = torch.stack([moment(5, seed, 0.5) for seed in range(3)])
    half = root(batch)
    torch.testing.assert_close(half @ half, batch)
    torch.testing.assert_close(half, half.mT)


def test_root_of_a_singular_moment_is_finite():
    row = torch.randn(1, 6, dtype=torch.float64)
    half = root(row.T @ row)
    torch.testing.assert_close(half @ half, row.T @ row)


def test_leading_are_the_largest_eigenvectors_first():
    gram = moment(7)
    vectors = leading(gram, 3)
    values = torch.linalg.eigvalsh(gram).flip(0)[:3]
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(gram @ vectors, vectors * values)
