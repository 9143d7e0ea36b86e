"""What takes a convolution's place answers like one, and is what runs."""

from __future__ import annotations

import copy
import pickle
from functools import cached_property

import pytest
import torch
import torch.nn.functional as F
from helpers import CONVOLUTIONS, TOLERANCE, convolution, image_batches, plan_for, tiny
from torch import Tensor, nn

from convswap import Budget, convert, count, find_sites, plan, record_of
from convswap.errors import ConversionError
from convswap.forms import FORMS, Factorized, Kernel, become_, build, ranks

ANSWERS = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
    "padding_mode",
)  # fmt: skip


def replaced(conv: nn.Conv2d, form: str, bias: bool = True) -> Factorized:
    """A convolution's replacement at its smallest rank, with random weights."""
    kernel = Kernel(*conv.weight.shape)
    row = build(FORMS[form].layers(kernel, ranks(form, kernel, 16)[0]), conv, bias)
    for layer in row:
        nn.init.normal_(layer.weight, 0, 0.5)
        if layer.bias is not None:
            nn.init.normal_(layer.bias)
    return row


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_it_answers_like_the_convolution(name: str, form: str):
    conv, _ = convolution(name)
    if not FORMS[form].applies(Kernel(*conv.weight.shape)):
        pytest.skip("the form does not apply")
    row = replaced(conv, form, conv.bias is not None)
    assert {a: getattr(row, a) for a in ANSWERS} == {a: getattr(conv, a) for a in ANSWERS}
    assert row.weight.shape == conv.weight.shape
    assert (row.weight.dtype, row.weight.device) == (conv.weight.dtype, conv.weight.device)
    assert (row.bias is None) == (conv.bias is None)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_its_weight_and_bias_are_those_of_a_convolution_that_computes_the_same(
    name: str, form: str
):
    conv, x = convolution(name)
    if not FORMS[form].applies(Kernel(*conv.weight.shape)):
        pytest.skip("the form does not apply")
    row, same = replaced(conv, form, conv.bias is not None), copy.deepcopy(conv)
    same.weight.copy_(row.weight)
    if conv.bias is not None:
        same.bias.copy_(row.bias)
    wanted, tolerance = same(x), TOLERANCE[conv.weight.dtype]
    torch.testing.assert_close(row(x), wanted, rtol=tolerance, atol=10 * tolerance)


def test_its_weight_follows_its_layers():
    row = replaced(nn.Conv2d(4, 6, 3), "bottleneck")
    before = row.weight.clone()
    assert row.weight is row.weight  # code that reads it in every pass is not slowed down
    with torch.no_grad():
        row.expand.weight.mul_(2)
    torch.testing.assert_close(row.weight, 2 * before)
    row.reduce.weight = nn.Parameter(row.reduce.weight.detach() * 2)
    torch.testing.assert_close(row.weight, 4 * before)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_its_weight_and_bias_cannot_be_set(name: str):
    row = replaced(nn.Conv2d(4, 6, 3), "channel")
    with pytest.raises((AttributeError, KeyError)):
        setattr(row, name, nn.Parameter(torch.zeros(6, 4, 3, 3)))


def test_it_can_be_copied_pickled_and_sliced():
    row, x = replaced(nn.Conv2d(4, 6, 3), "tucker"), torch.randn(2, 4, 8, 8)
    assert torch.equal(copy.deepcopy(row)(x), row(x))
    assert torch.equal(pickle.loads(pickle.dumps(row))(x), row(x))
    assert [type(m) for m in (row[0], row[:2])] == [nn.Conv2d, nn.Sequential]


def test_exporters_see_plain_convolutions():
    row = replaced(nn.Conv2d(4, 6, 3), "tucker").eval()
    program = torch.export.export(row, (torch.randn(2, 4, 8, 8),))
    called = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert called == ["aten.conv2d.default"] * 3


@pytest.mark.parametrize("trait", ["channels_last", "frozen", "training"])
def test_it_keeps_how_the_convolution_was_kept(trait: str):
    conv = nn.Conv2d(4, 6, 3)
    if trait == "channels_last":
        conv = conv.to(memory_format=torch.channels_last)
    conv.train(trait == "training").requires_grad_(trait != "frozen")
    for layer in replaced(conv, "tucker"):
        assert layer.training is conv.training
        assert layer.weight.requires_grad is conv.weight.requires_grad
        assert layer.weight.is_contiguous(memory_format=torch.channels_last) or (
            trait != "channels_last"
        )


def test_whoever_holds_the_convolution_holds_its_replacement():
    conv = nn.Conv2d(4, 6, 3)
    conv.mine = "kept"
    held = [conv, {"deep": (conv,)}]
    row = replaced(conv, "spatial")
    become_(conv, row)
    x = torch.randn(2, 4, 8, 8)
    assert held[0] is held[1]["deep"][0]
    assert torch.equal(held[0](x), row(x))
    assert isinstance(held[0], Factorized)
    assert held[0].mine == "kept"


# what was planned is what runs


@pytest.mark.parametrize("name", ["kept in a list", "reads attributes", "own class", "frames"])
def test_what_was_planned_runs(name: str):
    model, input_size = tiny(name)
    batches = image_batches(input_size)
    made = plan(model, batches, Budget(macs=0.6))
    small = convert(model, made, batches)
    assert made.planned.macs <= 0.6 * made.dense.macs
    assert count(small, input_size) == made.planned


REGISTRY: list[nn.Module] = []


class Registered(nn.Module):
    """A convolution is run from a list that is nobody's: a copy of the network runs the same."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        REGISTRY[:] = [self.second]

    def forward(self, x: Tensor) -> Tensor:
        return REGISTRY[0](torch.tanh(self.first(x)))


def test_a_convolution_that_a_copy_does_not_reach_is_left_alone():
    reasons = {site.path: site.reason for site in find_sites(Registered().eval(), (3, 8, 8))[0]}
    assert reasons["second"] == "never run by forward, or run without calling the module"
    assert reasons["first"] is None


class Fails(nn.Module):
    """Something breaks where one of the convolutions is none."""

    def __init__(self, how: str):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.how = how

    @cached_property
    def is_plain(self) -> bool:
        return type(self.second) is nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        if self.how == "method":
            x = self.second._conv_forward(x, self.second.weight, self.second.bias)
        elif self.how == "past it":
            x = self.second.forward(self.second(x))
        elif self.how == "functional":
            x = F.conv2d(x, self.second.weight, self.second.bias, padding=1)
        elif self.how == "private":
            assert self.second._parameters["weight"].dim() == 4
            x = self.second(x)
        elif self.how == "class":
            x = torch.relu(self.second(x)) if type(self.second) is nn.Conv2d else self.second(x)
        elif self.how == "class, asked once":
            x = torch.relu(self.second(x)) if self.is_plain else self.second(x)
        elif self.how == "dilated":
            self.second.padding = self.second.dilation = (2, 2)
            x = self.second(x)
            self.second.padding = self.second.dilation = (1, 1)
        elif self.how == "written":
            self.second.weight.data = x.mean() * torch.ones(8, 8, 3, 3, device=x.device)
            x = self.second(x)
        return self.third(x)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("method", "never run by forward"),
        ("functional", "never run by forward"),
        ("past it", "its weight is read directly by forward"),
        ("private", "forward fails without it: 'weight'"),
        ("class", "forward goes another way where it is no nn.Conv2d"),
        ("class, asked once", "forward goes another way where it is no nn.Conv2d"),
        ("dilated", "forward changes its weight or settings"),
        ("written", "forward changes its weight or settings"),
    ],
)
def test_what_forward_cannot_do_without_is_left_alone_and_the_rest_is_not(how: str, reason: str):
    model, batches = Fails(how).eval(), image_batches((3, 8, 8))
    model(batches[0])
    reasons = {site.path: site.reason for site in find_sites(model, (3, 8, 8))[0]}
    assert reasons.pop("second").startswith(reason)
    assert set(reasons.values()) == {None}
    made = plan(model, batches, Budget(macs=0.8))
    assert count(convert(model, made, batches), (3, 8, 8)) == made.planned


class Notices(nn.Module):
    """One convolution runs again where another has been replaced by certain layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.tanh(self.first(x)))
        return self.second(x) if hasattr(self.first, "expand") else x


def test_a_network_that_would_not_run_as_planned_is_refused_before_it_is_fitted():
    made = plan_for(Notices(), (3, 8, 8), {"first": ("channel", 2)})
    steps = []
    with pytest.raises(ConversionError, match="multiply-adds with the planned layers"):
        convert(Notices(), made, image_batches((3, 8, 8)), progress=lambda *p: steps.append(p))
    assert not steps


class Louder(Notices):
    """Computes something else, at the same cost, where a convolution has been replaced."""

    def __init__(self, gain: float):
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.tanh(self.first(x)))
        return self.gain * x if hasattr(self.first, "expand") else x


@pytest.mark.parametrize("gain", [1, 3])
def test_damage_far_above_the_prediction_is_said_aloud(gain: int):
    model, batches = Louder(gain).eval(), image_batches((3, 8, 8))
    made = plan_for(model, (3, 8, 8), {"first": ("channel", 7)})
    [choice] = made.choices
    expected = choice.model_copy(update={"damage": 0.1})
    made = made.model_copy(update={"choices": (expected,)})
    notes = record_of(convert(model, made, batches)).plans[-1].notes
    assert [note.startswith("the outputs changed ") for note in notes] == [True] * (gain == 3)


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", [*CONVOLUTIONS, "transposed"])
def test_torch_jit_script_compiles_what_runs(name: str):
    if name == "transposed":
        conv, x = nn.ConvTranspose2d(6, 6, 4, stride=2, padding=1), torch.rand(2, 6, 5, 5)
    else:
        conv, x = convolution(name)
    row = nn.Sequential(replaced(conv, "channel", conv.bias is not None))
    assert row[0].weight.shape == conv.weight.shape  # which it keeps
    torch.testing.assert_close(torch.jit.script(row)(x), row(x))
