"""Networks train with channels last where they can, and nobody notices."""

from __future__ import annotations

import pytest
import torch
from helpers import plan_for
from torch import nn

from convswap import convert, distill
from convswap.network.calls import read_batch
from convswap.network.layout import LAST, laid_out, lay_out_, run_with_channels_last


class Viewed(nn.Module):
    """Looks at maps as if they lay in memory row by row."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8 * 64, 5)

    def forward(self, x):
        x = self.second(torch.relu(self.first(x)))
        return self.head(x.view(len(x), -1))


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))


def is_last(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous(memory_format=LAST[tensor.dim()]) and not tensor.is_contiguous()


@pytest.mark.parametrize(
    ("model", "size", "able"),
    [
        (plain(), (3, 8, 8), True),
        (Viewed(), (3, 8, 8), False),
        (nn.Conv3d(3, 8, 3), (3, 4, 8, 8), True),
        (nn.Conv1d(3, 8, 3), (3, 16), True),
        (nn.Sequential(nn.Conv2d(3, 8, 1, stride=2)), (3, 8, 8), False),
        (nn.Sequential(nn.Conv2d(8, 8, 1, stride=2)), (8, 8, 8), True),
    ],
    ids=["plain", "viewed", "volumes", "signals", "crashes PyTorch", "just does not"],
)
def test_a_network_that_cannot_run_so_is_found_out_and_none_is_changed(model, size, able):
    batch = read_batch(model, torch.randn(2, *size))
    before = model(*batch.args)
    assert run_with_channels_last([model], batch) is able
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    assert torch.equal(model(*batch.args), before)


@pytest.mark.parametrize("size", [(3, 8, 8), (3, 4, 8, 8)], ids=["images", "volumes"])
def test_maps_follow_the_kernels(size):
    model = nn.Conv2d(3, 8, 3) if len(size) == 3 else nn.Conv3d(3, 8, 3)
    batch = read_batch(model, torch.randn(2, *size))
    before = model(*batch.args)
    lay_out_(model, last=True)
    after = model(*laid_out(batch).args)
    assert is_last(model.weight)
    assert is_last(after)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    lay_out_(model, last=False)
    assert model.weight.is_contiguous()


@pytest.mark.parametrize("make", [plain, Viewed])
def test_what_was_trained_lies_in_memory_as_usual(make):
    teacher = make().eval()
    name = "2" if make is plain else "second"
    student = convert(teacher, plan_for(teacher, (3, 8, 8), {name: ("spatial", 1)}, fit="weight"))
    small = distill(student, teacher, [torch.randn(8, 3, 8, 8)], epochs=4)
    assert all(parameter.is_contiguous() for parameter in small.parameters())
    assert all(parameter.is_contiguous() for parameter in teacher.parameters())
    before, after = (net.state_dict() for net in (student, small))
    assert any(not torch.equal(before[key], after[key]) for key in before)
