"""Every form: exact at full rank, better with rank, equal to a plain reference, priced right."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from helpers import CONVOLUTIONS, TOLERANCE, convolution, moment, relative
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from convswap.errors import RankError
from convswap.forms import FORMS, Kernel, build, check_rank, ranks, write_
from convswap.forms.bottleneck import MOST_NORM, _basis
from convswap.forms.group_fits import GroupFits
from convswap.forms.least_squares import LeastSquares
from convswap.network.cost import Size, count, layers_cost

KERNEL = Kernel(6, 4, 3, 3)
RANKED = [name for name in FORMS if FORMS[name].full_rank(KERNEL) is not None]
WITH_ARGUMENTS = [
    (form, name)
    for form in FORMS
    for name in CONVOLUTIONS
    if FORMS[form].applies(Kernel(*convolution(name)[0].weight.shape))
]


def problem_for(weight: Tensor, seed: int | None) -> LeastSquares:
    """The fit to a known kernel `[out, D]`, under white inputs or random moments."""
    weight = weight.flatten(1).double()
    return LeastSquares(weight, None if seed is None else moment(weight.shape[1], seed))


def random_problem(kernel: Kernel, seed: int | None) -> LeastSquares:
    return problem_for(torch.randn(kernel, dtype=torch.float64), seed)


def replacement(form: str, conv: nn.Conv2d, rank, weights: list[Tensor]) -> nn.Sequential:
    bias = conv.bias is not None
    layers = build(FORMS[form].layers(Kernel(*conv.weight.shape), rank), conv, bias)
    write_(layers, weights, conv.bias)
    return layers.requires_grad_(False)


def every_rank(form: str, kernel: Kernel) -> list:
    full = FORMS[form].full_rank(kernel)
    if isinstance(full, tuple):
        diagonal = [(min(r, full[0]), min(r, full[1])) for r in range(1, max(full) + 1)]
        return [*diagonal[:-1], full]
    return list(range(1, full + 1))


def largest_rise(errors: list[float]) -> float:
    return max(b - a for a, b in pairwise(errors))


# exact

even = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own


@even
@pytest.mark.parametrize("seed", [None, 3], ids=["weight only", "moments"])
@pytest.mark.parametrize(("form", "name"), [c for c in WITH_ARGUMENTS if c[0] in RANKED])
def test_form_is_exact_at_full_rank(form: str, name: str, seed: int | None):
    conv, x = convolution(name)
    kernel = Kernel(*conv.weight.shape)
    rank = FORMS[form].full_rank(kernel)
    weights = FORMS[form].fit(problem_for(conv.weight, seed), kernel, rank, 12).weights
    layers = replacement(form, conv, rank, weights)
    assert relative(layers(x), conv(x)) < TOLERANCE[x.dtype]


@even
@pytest.mark.parametrize("seed", [None, 3], ids=["weight only", "moments"])
@pytest.mark.parametrize("name", [name for form, name in WITH_ARGUMENTS if form == "blueprint"])
def test_blueprint_is_exact_on_kernels_of_its_kind(name: str, seed: int | None):
    conv, x = convolution(name)
    kernel = Kernel(*conv.weight.shape)
    channels = torch.randn(kernel.out_channels, kernel.in_channels, 1, 1)
    taps = torch.randn(kernel.out_channels, 1, *kernel.size)
    conv.weight.copy_(channels * taps)
    weights = FORMS["blueprint"].fit(problem_for(conv.weight, seed), kernel, 1, 12).weights
    tolerance = max(TOLERANCE[x.dtype], 1e-7)  # its solver is regularised by 1e-9
    assert relative(replacement("blueprint", conv, 1, weights)(x), conv(x)) < tolerance


@even
@pytest.mark.parametrize(("form", "name"), WITH_ARGUMENTS)
def test_layers_run_what_the_form_spells(form: str, name: str):
    """Any weights, not only good ones: the layers equal one convolution with the spelled kernel."""
    conv, x = convolution(name)
    if x.dtype == torch.bfloat16:
        conv, x = conv.float(), x.float()
    kernel = Kernel(*conv.weight.shape)
    rank = ranks(form, kernel, 3)[-1]
    made = FORMS[form].layers(kernel, rank)
    weights = [
        torch.randn(m.out_channels, m.in_channels // m.groups, *m.size).to(x.dtype) for m in made
    ]
    layers = replacement(form, conv, rank, weights)
    conv.weight.copy_(FORMS[form].spell(weights, kernel).reshape(kernel))
    assert relative(layers(x), conv(x)) < TOLERANCE[x.dtype]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", [KERNEL, Kernel(5, 3, 2, 4)], ids=["3x3", "2x4"])
def test_spelled_kernel_is_the_impulse_response(form: str, kernel: Kernel):
    conv = nn.Conv2d(kernel.in_channels, kernel.out_channels, kernel[2:], bias=False).double()
    rank = ranks(form, kernel, 2)[-1]
    weights = FORMS[form].fit(random_problem(kernel, 0), kernel, rank, 3).weights
    impulses = torch.eye(kernel.patch, dtype=torch.float64).reshape(-1, *kernel[1:])
    response = replacement(form, conv, rank, weights)(impulses).flatten(1).T
    torch.testing.assert_close(response, FORMS[form].spell(weights, kernel))


@pytest.mark.parametrize("form", FORMS)
def test_zero_kernel_stays_zero(form: str):
    rank = every_rank(form, KERNEL)[1] if form in RANKED else 1
    weights = FORMS[form].fit(problem_for(torch.zeros(KERNEL), 1), KERNEL, rank, 12).weights
    spelled = FORMS[form].spell(weights, KERNEL)
    assert spelled.isfinite().all()
    assert spelled.abs().max() < 1e-12


# better with rank


@pytest.mark.parametrize("seed", [None, 0], ids=["weight only", "moments"])
@pytest.mark.parametrize("form", RANKED)
def test_error_never_rises_with_rank(form: str, seed: int | None):
    problem = random_problem(KERNEL, seed)
    errors = []
    for rank in every_rank(form, KERNEL):
        weights = FORMS[form].fit(problem, KERNEL, rank, 100).weights
        errors.append(problem.error(FORMS[form].spell(weights, KERNEL)))
    # bottleneck trades a little error for terms that do not cancel
    assert largest_rise(errors) <= (1e-5 if form == "bottleneck" else 1e-9)
    assert errors[0] > 0.01
    assert errors[-1] < 1e-9


@pytest.mark.parametrize("steps", [0, 12])
@pytest.mark.parametrize("form", FORMS)
def test_what_a_fit_says_it_leaves_is_what_its_layers_leave(form: str, steps: int):
    problem = random_problem(KERNEL, 0)
    for rank in every_rank(form, KERNEL)[::3] if form in RANKED else [1]:
        weights, left = FORMS[form].fit(problem, KERNEL, rank, steps)
        torch.testing.assert_close(left, problem.left(FORMS[form].spell(weights, KERNEL)))


@pytest.mark.parametrize("form", FORMS)
def test_a_fit_leaves_less_of_what_is_minded_more(form: str):
    problem, out = random_problem(KERNEL, 0), KERNEL.out_channels
    minded = torch.linspace(0.2, 5, out).double().diag() + 0.1 * moment(out, 3).double()
    fits, rank = GroupFits([problem], KERNEL), every_rank(form, KERNEL)[0] if form in RANKED else 1
    plain, heeding = (fits.fit(form, rank, 50, how) for how in (None, minded))
    [(_, before)], [(weights, after)] = plain, heeding
    torch.testing.assert_close(after, problem.left(FORMS[form].spell(weights, KERNEL)))
    if form == "blueprint":  # it ends in a layer for each output by itself
        assert torch.equal(after, before)
    else:
        assert (minded * after).sum() < 0.99 * (minded * before).sum()


@pytest.mark.parametrize("kernel", [KERNEL, Kernel(3, 5, 3), Kernel(5, 4, 1, 3, 3)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_starts_of_many_ranks_leave_what_each_alone_does(form: str, kernel: Kernel):
    if not FORMS[form].applies(kernel):
        pytest.skip(f"{form} does not apply")
    problem = random_problem(kernel, 1)
    some = ranks(form, kernel, 6)[::-1]
    for rank, left in zip(some, FORMS[form].start_errors(problem, kernel, some), strict=True):
        torch.testing.assert_close(left, FORMS[form].fit(problem, kernel, rank, 0).left)


@pytest.mark.parametrize("axis", [0, 1], ids=["outputs", "inputs"])
def test_tucker_error_never_rises_along_one_rank(axis: int):
    problem = random_problem(KERNEL, 4)
    full = FORMS["tucker"].full_rank(KERNEL)
    errors = []
    for r in range(1, full[axis] + 1):
        rank = (r, 2) if axis == 0 else (3, r)
        weights = FORMS["tucker"].fit(problem, KERNEL, rank, 20).weights
        errors.append(problem.error(FORMS["tucker"].spell(weights, KERNEL)))
    assert largest_rise(errors) <= 1e-9


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("form", FORMS)
def test_fit_under_moments_beats_the_fit_to_weights(form: str, seed: int):
    weight = torch.randn(KERNEL, dtype=torch.float64)
    problem = problem_for(weight, seed)
    rank = ranks(form, KERNEL, 3)[1] if form in RANKED else 1
    spelled = {
        name: FORMS[form].spell(FORMS[form].fit(p, KERNEL, rank, 30).weights, KERNEL)
        for name, p in {"moments": problem, "weight": problem_for(weight, None)}.items()
    }
    assert problem.error(spelled["moments"]) < problem.error(spelled["weight"])


# equal to a plain reference


def truncated(matrix: Tensor, rank: int) -> Tensor:
    """The best approximation of rank `rank`, batched."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return (u[..., :rank] * s[..., None, :rank]) @ vh[..., :rank, :]


@pytest.mark.parametrize("form", FORMS)
def test_white_inputs_need_no_moments_and_no_more_steps_than_pay(form: str):
    weight = torch.randn(KERNEL, dtype=torch.float64).flatten(1)
    rank = ranks(form, KERNEL, 3)[1] if form in RANKED else 1
    white, told = LeastSquares(weight), LeastSquares(weight, torch.eye(36, dtype=torch.float64))
    for steps in (0, 30):
        left, same = (FORMS[form].fit(p, KERNEL, rank, steps).left.trace() for p in (white, told))
        torch.testing.assert_close(left, same, rtol=1e-6, atol=0)
    for left, same in zip(
        *(FORMS[form].start_errors(p, KERNEL, [rank]) for p in (white, told)), strict=True
    ):
        torch.testing.assert_close(left, same)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_channel_is_the_truncated_svd_under_white_inputs(rank: int):
    problem = random_problem(KERNEL, None)
    spelled = FORMS["channel"].spell(FORMS["channel"].fit(problem, KERNEL, rank, 0).weights, KERNEL)
    torch.testing.assert_close(spelled, truncated(problem.target, rank))


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_channel_is_the_truncated_svd_of_the_whitened_kernel(rank: int):
    problem = random_problem(KERNEL, 7)
    factor = torch.linalg.cholesky(problem.moment)
    wanted = truncated(problem.target @ factor, rank)
    spelled = FORMS["channel"].spell(FORMS["channel"].fit(problem, KERNEL, rank, 0).weights, KERNEL)
    assert relative(spelled @ factor, wanted) < 1e-8


@pytest.mark.parametrize("steps", [0, 12])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_spatial_is_jaderbergs_svd_under_white_inputs(rank: int, steps: int):
    problem = random_problem(KERNEL, None)
    folded = problem.target.reshape(KERNEL).permute(0, 3, 1, 2)  # [out, width, in, height]
    wanted = truncated(folded.reshape(18, 12), rank).reshape(folded.shape).permute(0, 2, 3, 1)
    weights = FORMS["spatial"].fit(problem, KERNEL, rank, steps).weights
    spelled = FORMS["spatial"].spell(weights, KERNEL)
    torch.testing.assert_close(spelled, wanted.flatten(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [0, 12])
@pytest.mark.parametrize("multiplier", [1, 2, 4])
def test_separable_is_one_svd_per_input_channel_under_white_inputs(multiplier: int, steps: int):
    problem = random_problem(KERNEL, None)
    slices = problem.target.reshape(6, 4, 9).transpose(0, 1)  # [in, out, K]
    wanted = truncated(slices, multiplier).transpose(0, 1).flatten(1)
    weights = FORMS["separable"].fit(problem, KERNEL, multiplier, steps).weights
    spelled = FORMS["separable"].spell(weights, KERNEL)
    torch.testing.assert_close(spelled, wanted, atol=1e-5, rtol=1e-5)


def test_blueprint_is_one_svd_per_output_channel_under_white_inputs():
    problem = random_problem(KERNEL, None)
    wanted = truncated(problem.target.reshape(6, 4, 9), 1).flatten(1)
    spelled = FORMS["blueprint"].spell(
        FORMS["blueprint"].fit(problem, KERNEL, 1, 20).weights, KERNEL
    )
    torch.testing.assert_close(spelled, wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("rank", [(2, 2), (4, 3), (6, 1)])
def test_tucker_is_no_worse_than_two_projections_under_white_inputs(rank: tuple[int, int]):
    problem = random_problem(KERNEL, None)
    tensor = problem.target.reshape(6, 4, 9)
    left = torch.linalg.svd(tensor.flatten(1)).U[:, : rank[0]]
    right = torch.linalg.svd(tensor.transpose(0, 1).flatten(1)).U[:, : rank[1]]
    projected = torch.einsum("op,ij,pjk->oik", left @ left.T, right @ right.T, tensor)
    weights = FORMS["tucker"].fit(problem, KERNEL, rank, 20).weights
    spelled = FORMS["tucker"].spell(weights, KERNEL)
    assert problem.error(spelled) <= problem.error(projected.flatten(1)) + 1e-9


def test_bottleneck_finds_a_kernel_of_its_own_rank():
    torch.manual_seed(2)
    factors = [torch.linalg.qr(torch.randn(n, 3, dtype=torch.float64)).Q for n in (6, 4, 9)]
    weight = torch.einsum("or,ir,kr->oik", *factors).flatten(1)
    problem = problem_for(weight, None)
    weights = FORMS["bottleneck"].fit(problem, KERNEL, 3, 100).weights
    assert problem.error(FORMS["bottleneck"].spell(weights, KERNEL)) < 1e-4


# bottleneck: terms that do not cancel


@pytest.mark.parametrize("seed", [None, 0, 1, 2, 3], ids=["weight only", "0", "1", "2", "3"])
@pytest.mark.parametrize("rank", [3, 12, 24, 35, 36])
def test_bottleneck_terms_do_not_cancel(rank: int, seed: int | None):
    torch.manual_seed(0 if seed is None else seed)
    kernel = Kernel(12, 4, 3, 3)
    problem = random_problem(kernel, seed)
    reduce, depthwise, expand = FORMS["bottleneck"].fit(problem, kernel, rank, 100).weights
    terms = (reduce.norm(dim=1) * depthwise.norm(dim=1) * expand.norm(dim=0)).pow(2).sum()
    assert terms <= 3 * problem.target.pow(2).sum()


@pytest.mark.parametrize("share", [1.0, 0.7])
def test_bottleneck_terms_that_like_to_cancel_are_held_down(share: float):
    """A kernel of rank three that two diverging terms come arbitrarily close to, as a correction
    of a smaller one."""
    (a_out, b_out), (a_in, b_in), (a_tap, b_tap) = (
        torch.nn.functional.normalize(torch.randn(2, n).double()) for n in (12, 4, 9)
    )
    weight = sum(
        torch.einsum("o,i,k->oik", *term)
        for term in ((a_out, a_in, b_tap), (a_out, b_in, a_tap), (b_out, a_in, a_tap))
    ).flatten(1)
    moment = torch.eye(36, dtype=torch.float64)
    problem = LeastSquares(weight, moment, share * weight)
    reduce, depthwise, expand = (
        FORMS["bottleneck"].fit(problem, Kernel(12, 4, 3, 3), 2, 100).weights
    )
    terms = (reduce.norm(dim=1) * depthwise.norm(dim=1) * expand.norm(dim=0)).pow(2).sum()
    assert terms <= MOST_NORM * problem.norm
    _, mix, _ = problem.refine([depthwise, reduce], _basis, 100)
    assert mix.square().sum() > MOST_NORM * problem.norm


def test_bottleneck_in_place_of_nothing_is_finite():
    problem = random_problem(KERNEL, 0)
    problem = LeastSquares(problem.target, problem.moment, torch.zeros_like(problem.target))
    weights = FORMS["bottleneck"].fit(problem, KERNEL, 3, 12).weights
    assert all(weight.isfinite().all() for weight in weights)


def test_bottleneck_hands_over_balanced_factors():
    weights = FORMS["bottleneck"].fit(random_problem(KERNEL, 0), KERNEL, 9, 12).weights
    reduce, depthwise, expand = weights
    torch.testing.assert_close(reduce.norm(dim=1), depthwise.norm(dim=1))
    torch.testing.assert_close(reduce.norm(dim=1), expand.norm(dim=0))


# priced right


@st.composite
def convolutions(draw):
    """Any form on any small convolution it applies to, at any rank."""
    form = draw(st.sampled_from(list(FORMS)))
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel = Kernel(draw(st.integers(1, 7)), draw(st.integers(1, 7)), *draw(pair))
    assume(FORMS[form].applies(kernel))
    stride, dilation = draw(pair), draw(pair)
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    conv = nn.Conv2d(
        kernel.in_channels, kernel.out_channels, kernel[2:], stride, padding, dilation,
        bias=draw(st.booleans()), dtype=dtype,
    )  # fmt: skip
    size = draw(st.tuples(st.integers(7, 12), st.integers(7, 12)))
    full = FORMS[form].full_rank(kernel) or 1
    limits = full if isinstance(full, tuple) else (full,)
    rank = tuple(draw(st.integers(1, limit)) for limit in limits)
    return form, conv, rank if len(rank) > 1 else rank[0], size


@given(convolutions())
@settings(max_examples=150)
def test_predicted_cost_is_the_counted_cost(case):
    form, conv, rank, size = case
    kernel = Kernel(*conv.weight.shape)
    layers = FORMS[form].layers(kernel, rank)
    bias = conv.bias is not None
    x = torch.zeros(1, kernel.in_channels, *size, dtype=conv.weight.dtype, device="meta")
    sizes = [Size(tuple(size), tuple(conv.to("meta")(x).shape[2:]))]
    predicted = layers_cost(layers, sizes, conv.weight.element_size(), bias)
    assert predicted == count(build(layers, conv, bias), x.shape[1:])


@given(convolutions())
@settings(max_examples=80)
def test_layers_keep_the_output_shape_and_dtype(case):
    form, conv, rank, size = case
    layers = build(FORMS[form].layers(Kernel(*conv.weight.shape), rank), conv, bias=True)
    x = torch.zeros(2, conv.in_channels, *size, dtype=conv.weight.dtype)
    assert layers(x).shape == conv(x).shape
    assert layers(x).dtype == conv(x).dtype


@given(
    st.sampled_from(list(FORMS)),
    st.builds(Kernel, st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5)),
    st.integers(1, 9),
)
@settings(max_examples=150)
def test_every_rank_of_the_grid_is_allowed(form: str, kernel: Kernel, number: int):
    assume(FORMS[form].applies(kernel))
    grid = ranks(form, kernel, number)
    assert 1 <= len(grid) <= number
    assert len(set(grid)) == len(grid)
    for rank in grid:
        check_rank(form, kernel, rank)


# built as promised


@pytest.mark.parametrize("form", FORMS)
def test_only_the_last_layer_has_a_bias(form: str):
    conv = nn.Conv2d(4, 6, 3)
    layers = build(FORMS[form].layers(KERNEL, ranks(form, KERNEL, 2)[-1]), conv, bias=True)
    assert [layer.bias is not None for layer in layers] == [False] * (len(layers) - 1) + [True]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_layers_are_plain_convolutions_in_the_mode_of_the_original(form: str, training: bool):
    conv = nn.Conv2d(4, 6, 3).train(training)
    layers = build(FORMS[form].layers(KERNEL, ranks(form, KERNEL, 2)[-1]), conv, bias=True)
    assert {type(layer) for layer in layers} == {nn.Conv2d}
    assert {module.training for module in layers.modules()} == {training}


@pytest.mark.parametrize(
    ("form", "kernel", "applies"),
    [
        ("channel", Kernel(8, 8, 1, 1), True),
        ("separable", Kernel(8, 8, 1, 1), False),
        ("blueprint", Kernel(8, 8, 1, 1), False),
        ("bottleneck", Kernel(8, 8, 1, 1), False),
        ("tucker", Kernel(8, 8, 1, 1), False),
        ("spatial", Kernel(8, 8, 1, 1), False),
        ("spatial", Kernel(8, 8, 1, 3), False),
        ("separable", Kernel(8, 8, 1, 3), True),
    ],
)
def test_form_applies_where_it_can_help(form: str, kernel: Kernel, applies: bool):
    assert FORMS[form].applies(kernel) is applies


# refused


@pytest.mark.parametrize(
    ("form", "kernel", "rank", "says"),
    [
        ("fourier", KERNEL, 1, "unknown form 'fourier'"),
        ("spatial", Kernel(8, 8, 1, 3), 1, "does not apply to a kernel of shape [8, 8, 1, 3]"),
        ("channel", KERNEL, 0, "not in 1..6"),
        ("channel", KERNEL, 7, "not in 1..6"),
        ("channel", KERNEL, -1, "not in 1..6"),
        ("channel", KERNEL, 1.5, "not in 1..6"),
        ("channel", KERNEL, (1, 1), "not in 1..6"),
        ("separable", KERNEL, 7, "not in 1..6"),
        ("bottleneck", KERNEL, 25, "not in 1..24"),
        ("spatial", KERNEL, 13, "not in 1..12"),
        ("blueprint", KERNEL, 2, "not in 1..1"),
        ("tucker", KERNEL, 3, "not in 1..(6, 4)"),
        ("tucker", KERNEL, (7, 4), "not in 1..(6, 4)"),
        ("tucker", KERNEL, (6, 0), "not in 1..(6, 4)"),
        ("tucker", KERNEL, (1, 1, 1), "not in 1..(6, 4)"),
    ],
)
def test_bad_rank_is_refused(form: str, kernel: Kernel, rank, says: str):
    with pytest.raises(RankError) as caught:
        check_rank(form, kernel, rank)
    assert says in str(caught.value)


@pytest.mark.parametrize("form", RANKED)
def test_full_rank_is_allowed(form: str):
    full = FORMS[form].full_rank(KERNEL)
    check_rank(form, KERNEL, full)  # raises if not
    above = tuple(r + 1 for r in full) if isinstance(full, tuple) else full + 1
    with pytest.raises(RankError):
        check_rank(form, KERNEL, above)
