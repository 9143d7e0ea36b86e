"""Sums are found where they can be made up for, and the convolution before them does so."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers import gather, hooks_left, image_batches, relative
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from convswap import find_sites
from convswap.network.lockstep import Tap
from convswap.network.sums import LEAST_SCALE, Sum, undo_norms

SIZE = (8, 6, 6)


class Block(nn.Module):
    """Two convolutions and whatever a function makes of them."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor], **modules: nn.Module):
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        for name, module in modules.items():
            self.add_module(name, module)
        self._forward = forward
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def branch(block: nn.Module, x: Tensor) -> Tensor:
    return block.second(F.relu(block.first(x)))


def in_place(block: nn.Module, x: Tensor) -> Tensor:
    y = branch(block, x)
    y += x
    return F.relu(y, inplace=True)


def two_readers(block: nn.Module, x: Tensor) -> Tensor:
    y = branch(block, x)
    return torch.cat([x + y, y])


def overwritten(block: nn.Module, x: Tensor) -> Tensor:
    y = branch(block, x)
    F.relu(y, inplace=True)
    return x + y


def shortcut_afterwards(block: nn.Module, x: Tensor) -> Tensor:
    return branch(block, x) + block.down(x)


def shortcut_before(block: nn.Module, x: Tensor) -> Tensor:
    y = block.down(x)
    return branch(block, x) + y


def sums_of(model: nn.Module, size: tuple = SIZE) -> dict[str, Sum]:
    return {site.path: site.sum for site in find_sites(model, size)[0] if site.sum}


X = Tap("first", written=False)


@pytest.mark.parametrize(
    ("block", "wanted"),
    [
        (Block(lambda b, x: x + branch(b, x)), {"second": Sum(X, ())}),
        (Block(lambda b, x: branch(b, x) + x), {"second": Sum(X, ())}),
        (Block(lambda b, x: torch.add(x, branch(b, x))), {"second": Sum(X, ())}),
        (Block(in_place), {"second": Sum(X, ())}),
        (
            Block(lambda b, x: x + b.drop(b.norm(branch(b, x))),
                  norm=nn.BatchNorm2d(8), drop=nn.Dropout()),
            {"second": Sum(X, ("norm",))},
        ),
        (
            Block(lambda b, x: x + b.norm(branch(b, x)),
                  norm=BatchNormAct2d(8, apply_act=False)),
            {"second": Sum(X, ("norm",))},
        ),
        (
            Block(shortcut_before, down=nn.Conv2d(8, 8, 1)),
            {"second": Sum(Tap("down", written=True), ())},
        ),
        # whichever of two convolutions runs last makes up for the other
        (
            Block(shortcut_afterwards, down=nn.Conv2d(8, 8, 1)),
            {"down": Sum(Tap("second", written=True), ())},
        ),
        # no control flow stops it
        (Block(lambda b, x: x + branch(b, x) if x.mean() < 9 else x), {"second": Sum(X, ())}),
    ],
)  # fmt: skip
def test_sums_are_found(block: nn.Module, wanted: dict):
    assert sums_of(block) == wanted
    assert not hooks_left(block)


@pytest.mark.parametrize(
    "block",
    [
        Block(branch),
        Block(lambda b, x: x + F.relu(branch(b, x))),
        Block(lambda b, x: x + b.act(branch(b, x)), act=nn.ReLU(inplace=True)),
        Block(lambda b, x: x + b.norm(branch(b, x)), norm=BatchNormAct2d(8)),
        Block(lambda b, x: x + b.norm(branch(b, x)), norm=nn.InstanceNorm2d(8)),
        Block(lambda b, x: torch.add(x, branch(b, x), alpha=2)),
        Block(lambda b, x: 1 + branch(b, x)),
        Block(lambda b, x: x.mean((2, 3), keepdim=True) + branch(b, x)),
        Block(lambda b, x: x + branch(b, b.norm(branch(b, x))), norm=nn.Identity()),
        Block(two_readers),
        Block(overwritten),
    ],
)
def test_no_sum_is_seen_where_it_cannot_be_made_up_for(block: nn.Module):
    assert sums_of(block) == {}


@pytest.mark.parametrize(
    ("name", "last", "shortcuts"),
    [("resnet26", "conv3", 4), ("mobilenetv2_100", "conv_pwl", 0), ("resnetv2_50", "conv3", 0)],
)
def test_sums_of_timm_networks(name: str, last: str, shortcuts: int):
    """Every residual block but those whose shortcut runs last; there the shortcut does it."""
    model = timm.create_model(name).eval()
    found = sums_of(model, (3, 64, 64))
    ends = [path for path in found if path.endswith(last)]
    assert len(found) - len(ends) == shortcuts
    blocks = [p for p, m in model.named_modules() if hasattr(m, last)]
    residual = [
        p for p in blocks
        if getattr(model.get_submodule(p), "has_skip", True)
        and not (shortcuts and getattr(model.get_submodule(p), "downsample", None))
    ]  # fmt: skip
    assert sorted(ends) == sorted(f"{p}.{last}" for p in residual)


def test_norms_are_undone():
    block = Block(branch, norm=nn.BatchNorm2d(8))
    with torch.no_grad():
        block.norm.weight.copy_(torch.rand(8) + 1)
        block.norm.running_var.copy_(torch.rand(8) + 1)
        change = torch.randn(2, *SIZE)
        before = change * undo_norms(block, ["norm"], change)
        after = block.norm(before) - block.norm(torch.zeros_like(before))
    assert relative(after, change) < 4 * LEAST_SCALE**2
    assert undo_norms(block, [], change).item() == pytest.approx(1 / 1.01)


@pytest.mark.parametrize("silent", [slice(0, 1), slice(None)])
def test_silenced_channels_are_held_back(silent: slice):
    block = Block(branch, norm=nn.BatchNorm2d(8))
    with torch.no_grad():
        block.norm.weight[silent] = 0
    undo = undo_norms(block, ["norm"], torch.zeros(1, *SIZE)).flatten()
    assert not undo[silent].any()
    assert undo.isfinite().all()


def test_a_convolution_makes_up_for_what_the_other_addend_lost():
    """y + x - x', with x' what is added in the changed network: the sum is matched."""
    block = Block(lambda b, x: (y := b.stem(x)) + branch(b, y), stem=nn.Conv2d(8, 8, 1))
    changed = copy.deepcopy(block)
    with torch.no_grad():
        changed.stem.weight.mul_(0.9)
    batches = image_batches(SIZE)
    sites = [site for site in find_sites(block, SIZE)[0] if site.path == "second"]
    [(_, moments)] = gather(block, sites, batches, 0, changed)
    with torch.no_grad():
        images = torch.cat(batches)
        gap = block.stem(images) - changed.stem(images)
        wanted = branch(block, block.stem(images)) + gap / (1 + LEAST_SCALE**2)
    torch.testing.assert_close(moments.mean_y[0].float(), wanted.mean((0, 2, 3)))
    [(_, alone)] = gather(block, sites, batches, 0)
    with torch.no_grad():
        torch.testing.assert_close(
            alone.mean_y[0].float(), branch(block, block.stem(images)).mean((0, 2, 3))
        )


def test_a_shortcut_that_an_image_does_not_take_is_not_made_up_for():
    """The one image that sums are found on goes another way."""
    block = Block(
        lambda b, x: (b.down(x) if len(x) == 1 else 0 * x) + branch(b, x),
        down=nn.Conv2d(8, 8, 1),
    )
    [site] = [site for site in find_sites(block, SIZE)[0] if site.path == "second"]
    assert site.sum == Sum(Tap("down", written=True), ())
    batches = image_batches(SIZE)
    [(_, moments)] = gather(block, [site], batches, 0, copy.deepcopy(block))
    with torch.no_grad():
        wanted = branch(block, torch.cat(batches)).mean((0, 2, 3))
    torch.testing.assert_close(moments.mean_y[0].float(), wanted)
