"""Where memory is short, what a step holds is computed again: the same numbers come out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import image_batches, plan_for
from torch import Tensor, nn

from convswap import convert, distill
from convswap.network.calls import read_batches
from convswap.recovery import sparing
from convswap.recovery.losses import Task
from convswap.recovery.recompute import computed_again

SIZE = (3, 8, 8)


class Block(nn.Module):
    """A residual block, with layers enough to be worth it."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.gelu(self.first(x)))


class DrawsAtRandom(Block):
    """As where somebody forgot that dropout ends with training."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.1))


class ChangesItsInput(Block):
    """What it was given is lost when it is to be computed again."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(0.5))


def network(block: type[Block]) -> nn.Module:
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return nn.Sequential(stem, *(block() for _ in range(5)), head).eval()


def pair(block: type[Block]) -> tuple[nn.Module, nn.Module]:
    """A network and a roughly converted copy."""
    teacher = network(block)
    choices = {f"{i}.{name}": ("spatial", 2) for i in (1, 3) for name in ("first", "second")}
    return teacher, convert(teacher, plan_for(teacher, SIZE, choices, fit="weight"))


@pytest.mark.parametrize(("block", "does"), [
    (Block, "computed twice"), (DrawsAtRandom, "computed twice"),
    (ChangesItsInput, "smaller batches"),
])  # fmt: skip
@pytest.mark.parametrize("free", [None, 2**40, 2**10])
def test_training_ends_the_same_however_much_memory_there_is(block, does, free, monkeypatch):
    teacher, student = pair(block)
    batches, told = image_batches(SIZE, count=4, size=4), []
    wanted = distill(student, teacher, batches, epochs=2, lr=1e-3, tell=told.append)
    monkeypatch.setattr(sparing, "free_bytes", lambda device: free)
    small = distill(student, teacher, batches, epochs=2, lr=1e-3, tell=told.append)
    for ours, theirs in zip(small.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert [does in line for line in told] == ([True] if free == 2**10 else [])
    assert not any("forward" in vars(module) for module in small.modules())


def test_blocks_that_are_computed_again_hold_their_inputs_alone():
    teacher, student = pair(Block)
    task = Task(student, teacher, [], "logits", [1.0])
    [batch] = read_batches(student, image_batches(SIZE, count=1, size=4))
    before, gradients = sparing._held(task, batch)
    task.blocks = sparing._blocks(student, before)
    after, again = sparing._held(task, batch)
    assert {*task.blocks} >= {"1", "2", "3", "4", "5"}
    assert after[""] < 0.5 * before[""]
    assert all(map(torch.equal, gradients, again))


def test_a_forward_of_a_modules_own_is_given_back():
    module = nn.Sequential(nn.Identity())
    own = module[0].forward = lambda x: 2 * x
    with computed_again(module, ["0"]):
        assert module[0].forward is not own
        assert module(torch.ones(1)) == 2
    assert module[0].forward is own
