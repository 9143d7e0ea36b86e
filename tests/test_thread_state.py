"""Gradients, inference mode, autocast and function modes are the thread's: all are given back."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from helpers import image_batches, tiny
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from convswap import Budget, convert, count, distill, plan
from convswap.network.calls import read_batches
from convswap.network.lockstep import walk
from convswap.network.thread_state import ThreadState, gradients_flow


class Mode(TorchFunctionMode):
    """Changes nothing."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


CONTEXTS = {
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast off": lambda: torch.autocast("cpu", enabled=False),
    "function mode": Mode,
    "default device": lambda: torch.device("cpu"),
}


class Inside(nn.Module):
    """Both convolutions, or one of them, run inside a context."""

    def __init__(self, context: str, both: bool):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.context, self.both = context, both

    def forward(self, x: Tensor) -> Tensor:
        with CONTEXTS[self.context]():
            x = torch.tanh(self.first(x))
            if self.both:
                return self.second(x).float()
        return self.second(x.float())


@pytest.mark.parametrize("outer", CONTEXTS)
@pytest.mark.parametrize("inner", CONTEXTS)
def test_the_callers_state_stays_between_stops_and_afterwards(inner: str, outer: str):
    model = Inside(inner, both=True).eval()
    batches = read_batches(model, image_batches((3, 8, 8)))
    with CONTEXTS[outer]():
        before = ThreadState.taken()
        for _ in walk(model, ["first", "second"], batches):
            assert ThreadState.taken() == before
        assert ThreadState.taken() == before


@pytest.mark.parametrize("stop_early", [True, False])
@pytest.mark.parametrize("inner", CONTEXTS)
def test_the_callers_state_stays_where_a_walk_ends_early(inner: str, stop_early: bool):
    class Fails(Inside):
        def forward(self, x: Tensor) -> Tensor:
            with CONTEXTS[self.context]():
                self.first(x)
                raise ValueError("no such luck")

    model, before = Fails(inner, both=True).eval(), ThreadState.taken()
    stops = walk(model, ["first"], read_batches(model, image_batches((3, 8, 8))))
    next(stops)
    if stop_early:
        stops.close()
    else:
        with pytest.raises(ValueError, match="no such luck"):
            next(stops)
    assert ThreadState.taken() == before


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("context", CONTEXTS)
def test_networks_that_change_the_state_are_converted(context: str, both: bool):
    model, batches = Inside(context, both).eval(), image_batches((3, 8, 8))
    before = ThreadState.taken()
    made = plan(model, batches, Budget(macs=0.6))
    small = convert(model, made, batches)
    assert ThreadState.taken() == before
    assert count(small, (3, 8, 8)) == made.planned
    assert not made.notes  # gradients reach every layer


@pytest.mark.parametrize(
    "around",
    [torch.no_grad, torch.inference_mode, CONTEXTS["autocast"], lambda: torch.device("meta")],
    ids=["no_grad", "inference mode", "autocast", "default device"],
)
def test_what_a_caller_is_inside_of_changes_nothing(around):
    model, size = tiny("residual")
    batches, found = image_batches(size), []
    for context in (nullcontext, around):
        with context():
            made = plan(model, batches, Budget(macs=0.6))
            small = convert(model, made, batches)
            better = distill(small, model, batches, epochs=1, tell=lambda line: None)
        found.append([made.choices, small.state_dict(), better.state_dict()])
    (choices, *states), (others, *theirs) = found
    assert choices == others
    torch.testing.assert_close(states, theirs, rtol=0, atol=0)


def test_the_networks_own_code_makes_tensors_on_the_callers_default_device():
    devices = []

    class Looks(Inside):
        def forward(self, x: Tensor) -> Tensor:
            if not x.is_meta:
                devices.append(torch.get_default_device())
            return super().forward(x)

    model, batches = Looks("no_grad", both=False), image_batches((3, 8, 8))
    with torch.device("cpu:0"):
        made = plan(model, batches, Budget(macs=0.6))
        small = convert(model, made, batches)
        distill(small, model, batches, epochs=1, tell=lambda line: None)
    assert {*devices} == {torch.device("cpu:0")}
    devices.clear()
    plan(model, batches, Budget(macs=0.6))
    assert {*devices} == {torch.device("cpu")}


def test_layers_that_no_gradient_reaches_are_judged_by_their_own_output_and_named():
    class CutOff(Inside):
        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.tanh(self.first(x)).detach())

    made = plan(CutOff("no_grad", False).eval(), image_batches((3, 8, 8)), Budget(macs=0.5))
    assert made.notes == (
        "no gradient of the output reaches first: judged by what these put out themselves",
    )
    assert all(choice.damage > 0 for choice in made.choices)


def test_gradients_flow_through_code_that_switches_them_off():
    @torch.inference_mode()
    def trunk(x: Tensor) -> Tensor:
        with torch.no_grad():
            return 2 * x

    x, before = torch.ones(2, requires_grad=True), ThreadState.taken()
    with gradients_flow():
        y = 3 * trunk(x)
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [6, 6]
    assert ThreadState.taken() == before
    assert not trunk(x).requires_grad  # as ever, outside
    assert not _get_current_function_mode_stack()
