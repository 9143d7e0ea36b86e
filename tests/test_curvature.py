"""How much the output minds a change at a layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from convswap.network.calls import read_batches
from convswap.network.observe import observe
from convswap.statistics.curvature import Curvature, images_to_fit_by, output_curvature
from convswap.support.progress import silent


class CutOff(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def found(model: nn.Module, images: Tensor) -> dict[str, Curvature]:
    batches = read_batches(model.eval(), [images], None, None)
    sites = observe(model, batches[0]).replaceable
    return output_curvature(model, sites, batches, "values", 0, silent)


def test_where_no_gradient_arrives_the_layers_own_output_is_minded():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), CutOff(), nn.Conv2d(5, 4, 3))
    images = torch.randn(16, 3, 40, 40)
    seen = found(model, images)
    assert (seen["0"].arrived, seen["2"].arrived) == (False, True)
    with torch.no_grad():
        spread = model[0](images).transpose(0, 1).flatten(1)
    power = (spread - spread.mean(1, keepdim=True)).square().mean(1).sum().item()
    gain = seen["0"].gain
    assert torch.equal(gain, gain[0, 0] * torch.eye(5, dtype=gain.dtype))
    assert gain[0, 0].item() == pytest.approx(2 / power, rel=1e-3)


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("step", "arrived"),
    [(torch.sign, False), (lambda x: (9 * x).round(), False), (lambda x: (x > 0).float(), False),
     (lambda x: 0 * x, True)],
)  # fmt: skip
def test_behind_steps_a_gradient_of_zero_says_nothing(step, arrived: bool):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), Calls(step), nn.Conv2d(5, 4, 3))
    seen = found(model, torch.randn(16, 3, 12, 12))
    assert seen["0"].arrived == arrived
    assert bool(seen["0"].gain.any()) != arrived


@pytest.mark.parametrize("size", [2, 30])
def test_a_layer_that_minds_nothing_more_than_others_is_fitted_evenly(size: int):
    even = Curvature(size * torch.eye(4, dtype=torch.float64), samples=size, arrived=True)
    assert torch.allclose(even.minded, torch.eye(4, dtype=torch.float64))
    mute = Curvature(torch.zeros(4, 4, dtype=torch.float64), samples=size, arrived=True)
    assert torch.equal(mute.minded, torch.eye(4, dtype=torch.float64))


def test_fits_hear_of_more_images_where_these_are_cheap():
    many = [images_to_fit_by(macs) for macs in (0, 40_000_000, 1_800_000_000, 4_000_000_000)]
    assert many == [512, 512, 55, 32]


def test_no_more_images_are_looked_at_than_asked_for():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3)).eval()
    batches = read_batches(model, [torch.randn(40, 3, 8, 8)] * 2, None, None)
    sites = observe(model, batches[0]).replaceable
    for images, seen in ((16, 16), (64, 64), (200, 80)):
        curvature = output_curvature(model, sites, batches, "values", 0, silent, images)
        assert {each.samples for each in curvature.values()} == {seen}


def test_gradients_are_taken_where_they_are_wanted():
    """In another network with something else at the sites, as if that were looked at itself."""
    torch.manual_seed(0)
    model, other = (nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3)) for _ in "ab")
    images = torch.randn(16, 3, 12, 12)
    batches = read_batches(model.eval(), [images], None, None)
    sites = observe(model, batches[0]).replaceable
    there = nn.Sequential(nn.Sequential(other[0]), *other[1:])
    seen = output_curvature(model, sites, batches, "logits", 0, silent, there=there)
    assert seen["0"].gain.any()
    itself = output_curvature(other, sites, batches, "logits", 0, silent)
    assert all(torch.equal(seen[path].gain, itself[path].gain) for path in ("0", "2"))
    own = output_curvature(model, sites, batches, "logits", 0, silent)
    assert not torch.allclose(seen["0"].gain, own["0"].gain, rtol=0.1)
