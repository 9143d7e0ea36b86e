"""Patches are what a convolution reads; moments are what a plain covariance says."""

from __future__ import annotations

import pytest
import torch
from helpers import CONVOLUTIONS, TOLERANCE, convolution, relative
from timm.layers import Conv2dSame
from torch import Tensor, nn

from convswap.statistics.moments import POSITIONS, SHRINK, Moments
from convswap.statistics.rows import patches

even = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own


def rows_of(conv: nn.Conv2d, x: Tensor, step=(1, 1), offset=(0, 0)) -> Tensor:
    """Patches `[n, D]` in the order of the weights."""
    return patches(conv, x, step, offset).mT.flatten(3).flatten(0, 2)


@even
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_patches_times_weight_is_the_convolution(name: str):
    conv, x = convolution(name)
    rows = rows_of(conv, x)
    y = rows @ conv.weight.flatten(1).T
    if conv.bias is not None:
        y = y + conv.bias
    wanted = conv(x).permute(0, 2, 3, 1).flatten(0, 2)
    assert relative(y, wanted) < TOLERANCE[x.dtype]


@even
@pytest.mark.parametrize(("step", "offset"), [((2, 2), (0, 0)), ((2, 3), (1, 2)), ((3, 1), (2, 0))])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_sampled_patches_are_those_of_the_sampled_outputs(name: str, step, offset):
    conv, x = convolution(name)
    y = conv(x)[..., offset[0] :: step[0], offset[1] :: step[1]]
    rows = rows_of(conv, x, step, offset)
    wanted = y.permute(0, 2, 3, 1).flatten(0, 2)
    if conv.bias is not None:
        wanted = wanted - conv.bias
    assert relative(rows @ conv.weight.flatten(1).T, wanted) < TOLERANCE[x.dtype]


def seen(conv: nn.Conv2d, batches: list, y: list | None = None, seed: int = 0) -> Moments:
    moments = Moments(conv, seed)
    for x, written in zip(batches, y or [conv(x) for x in batches], strict=True):
        moments.update(x, written)
    return moments


def in_order(moments: Moments) -> tuple[Tensor, Tensor]:
    """E[xx'] and E[yx'] of patches channel by channel, which are kept tap by tap."""
    moment, cross = moments._centred([0, 1], 0)
    return moments._in_order(moments._in_order(moment).mT), moments._in_order(cross)


@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
def test_moments_are_the_covariance_of_all_patches(kind: type[nn.Conv2d]):
    conv = kind(3, 5, 3, stride=2).requires_grad_(False)
    batches = [torch.randn(4, 3, 9, 9) + 1 for _ in range(3)]
    wanted = [torch.randn_like(conv(x)) + 2 for x in batches]
    moments = seen(conv, batches, wanted)
    rows = torch.cat([rows_of(conv, x) for x in batches]).double()
    y = torch.cat([y.permute(0, 2, 3, 1).flatten(0, 2) for y in wanted]).double()
    covariance = torch.cov(torch.cat([y, rows], 1).T, correction=0)
    moment, cross = in_order(moments)
    assert moments.count == len(rows)
    torch.testing.assert_close(moments.mean_x[0], rows.mean(0), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(moments.mean_y[0], y.mean(0), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(moment, covariance[5:, 5:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cross, covariance[:5, 5:], atol=1e-5, rtol=1e-5)


def test_every_direction_gets_a_small_part_of_the_mean_variance():
    conv = nn.Conv2d(3, 5, 3).requires_grad_(False)
    moments = seen(conv, [torch.randn(4, 3, 9, 9)])
    moment, _ = in_order(moments)
    noise = max(SHRINK, 27 / moments.count) * moment.diagonal().mean()
    problem = moments.problem(conv.weight)
    torch.testing.assert_close(problem.moment, moment + noise * torch.eye(27).double())
    assert relative(problem.target, conv.weight.flatten(1)) < 1e-9


def test_correction_is_found_where_the_outputs_wanted_come_from_another_kernel():
    conv, other = (nn.Conv2d(3, 5, 3).requires_grad_(False) for _ in range(2))
    x = [torch.randn(8, 3, 9, 9) for _ in range(4)]
    moments = seen(conv, x, [other(batch) for batch in x])
    target = moments.problem(conv.weight, corrected=True).target
    assert relative(target, other.weight.flatten(1)) < 5e-3


def test_correction_is_refused_where_one_half_of_the_images_does_not_help_the_other():
    conv = nn.Conv2d(16, 5, 3).requires_grad_(False)
    x = torch.randn(2, 16, 5, 5)  # 18 positions for 144 unknowns
    moments = seen(conv, [x], [conv(x) + torch.randn(2, 5, 3, 3)])
    target = moments.problem(conv.weight, corrected=True).target
    assert relative(target, conv.weight.flatten(1)) < 0.1


def test_one_image_is_not_corrected():
    conv = nn.Conv2d(3, 5, 3).requires_grad_(False)
    x = torch.randn(1, 3, 9, 9)
    moments = seen(conv, [x], [torch.randn(1, 5, 7, 7)])
    target = moments.problem(conv.weight, corrected=True).target
    assert relative(target, conv.weight.flatten(1)) < 1e-9


@pytest.mark.parametrize("images", ["few", "constant", "zero", "far from zero"])
def test_target_is_the_dense_weight_where_images_say_little(images: str):
    conv = nn.Conv2d(8, 5, 3).requires_grad_(False)
    x = {
        "few": torch.randn(1, 8, 4, 4),
        "constant": torch.ones(2, 8, 6, 6),
        "zero": torch.zeros(2, 8, 6, 6),
        "far from zero": 30 + torch.randn(2, 8, 6, 6),
    }[images]
    problem = seen(conv, [x]).problem(conv.weight, corrected=True)
    assert relative(problem.target, conv.weight.flatten(1)) < 0.02


def test_batches_add_up():
    conv = nn.Conv2d(3, 5, 3, padding=1).requires_grad_(False)
    x = torch.randn(6, 3, 9, 9)
    whole, parts = seen(conv, [x]), seen(conv, list(x.split(2)))
    assert whole.count == parts.count == 6 * 81
    torch.testing.assert_close(
        whole.problem(conv.weight).moment, parts.problem(conv.weight).moment,
        atol=1e-5, rtol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("size", [(32, 32), (40, 40), (47, 47), (64, 64), (3, 2000), (96, 130)])
def test_large_maps_are_sampled_about_to_the_bound(size: tuple[int, int]):
    conv = nn.Conv2d(1, 2, 3, padding=1).requires_grad_(False)
    moments = seen(conv, [torch.randn(2, 1, *size)])
    assert POSITIONS / 4 <= moments.count / 2 <= POSITIONS


def test_sampled_moments_are_close_to_those_of_all_positions():
    conv = nn.Conv2d(1, 2, 3, stride=2, padding=1, padding_mode="reflect").requires_grad_(False)
    x = torch.randn(8, 1, 140, 140)
    sampled = seen(conv, [x])._centred([0, 1], 0)[0]
    rows = rows_of(conv, x).double()
    assert relative(sampled, torch.cov(rows.T, correction=0)) < 0.1


def test_seed_decides_what_is_sampled():
    conv = nn.Conv2d(1, 2, 3, padding=1).requires_grad_(False)
    batches = [torch.randn(1, 1, 128, 128) for _ in range(4)]
    first, same, other = (seen(conv, batches, seed=seed).mean_x for seed in (5, 5, 6))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_moments_are_kept_in_double_precision_whatever_the_network(dtype: torch.dtype):
    conv = nn.Conv2d(3, 5, 3, dtype=dtype).requires_grad_(False)
    problem = seen(conv, [torch.randn(2, 3, 9, 9, dtype=dtype)]).problem(conv.weight)
    assert problem.moment.dtype == problem.cross.dtype == torch.float64
