"""Which convolutions are found, in which order, with what around them, and why not others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import TINY, DataDependent, tiny
from timm.layers import Conv2dSame, StdConv2d
from torch import Tensor, nn

from convswap import Budget, plan
from convswap.network.cost import Size, count
from convswap.network.observe import find_sites
from convswap.network.sites import Site


class Chain(nn.Module):
    """What it is given, one after the other."""

    def __init__(self, **modules: nn.Module):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


def sites_of(model: nn.Module, input_size: tuple = (3, 8, 8)) -> dict[str, Site]:
    return {site.path: site for site in find_sites(model, input_size)[0]}


# order, calls, paths


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("residual", ["stem", "first", "second", "head"]),
        ("called twice", ["stem", "shared", "tail"]),
        ("two paths", ["near", "block.0"]),
        ("grouped", ["stem", "grouped", "depthwise", "tail"]),
        ("in place", ["first", "second"]),
        ("two outputs", ["trunk", "boxes", "scores"]),
        ("uneven", ["wide", "tall"]),
        ("concat", ["left", "right", "join"]),
        ("data-dependent", ["first", "second"]),
        ("kept in a list", ["first", "second", "third"]),
        ("frames", ["first", "second"]),
    ],
)
def test_sites_come_in_execution_order(name: str, paths: list[str]):
    model, input_size = tiny(name)
    assert list(sites_of(model, input_size)) == paths


def test_execution_order_is_not_the_order_of_definition():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.never = nn.Conv2d(8, 8, 3)
            self.last = nn.Conv2d(8, 8, 3)
            self.first = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x))

    assert list(sites_of(Backwards())) == ["first", "last", "never"]


def test_every_call_is_a_size():
    model, input_size = tiny("called twice")
    shared = sites_of(model, input_size)["shared"]
    assert shared.calls == 2
    assert shared.sizes == (Size((12, 12), (6, 6)), Size((6, 6), (3, 3)))


def test_two_paths_to_one_module_are_one_site():
    model, input_size = tiny("two paths")
    site = sites_of(model, input_size)["block.0"]
    assert site.paths == ("block.0", "alias")
    assert site.calls == 2
    assert site.reason is None


def test_site_says_how_the_convolution_is_set():
    conv = nn.Conv2d(
        3, 8, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), padding_mode="reflect",
        bias=False, dtype=torch.float64,
    )  # fmt: skip
    site = sites_of(Chain(conv=conv), (3, 12, 12))["conv"]
    assert site.kernel == (8, 3, 3, 5)
    assert (site.stride, site.padding, site.dilation) == ((2, 1), (1, 2), (1, 2))
    assert (site.padding_mode, site.bias, site.itemsize) == ("reflect", False, 8)


@pytest.mark.parametrize("name", TINY)
def test_costs_of_the_sites_are_what_the_network_spends(name: str):
    model, input_size = tiny(name)
    sites = sites_of(model, input_size).values()
    assert sum(site.cost.macs for site in sites) == count(model, input_size).macs
    for site in sites:
        module = model.get_submodule(site.path)
        assert site.cost.params == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(4, 8, 3, stride=2, padding=1, groups=4),
        nn.Conv2d(4, 8, 3, groups=4),
    ],
    ids=["transposed, depthwise", "depthwise"],
)
def test_cost_of_a_site_that_is_left_alone_is_right_too(layer: nn.Module):
    input_size = (layer.in_channels, 6, 6)
    site = sites_of(Chain(layer=layer), input_size)["layer"]
    assert site.cost == count(layer, input_size)


def test_finding_sites_changes_nothing():
    model, input_size = tiny("residual")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    find_sites(model.train(), input_size)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


# reasons


@pytest.mark.parametrize("name", ["x\nwrote base", "x\x1b[31m", "x\u202ey", "x" * 1001])
def test_a_layer_whose_name_cannot_be_written_is_left_alone(name: str):
    model = Chain(**{name: nn.Conv2d(8, 8, 3, padding=1), "other": nn.Conv2d(8, 8, 3, padding=1)})
    assert sites_of(model, (8, 9, 9))[name].reason == "its name cannot be printed, or is too long"
    made = plan(model, (), Budget(macs=0.8), fit="weight", input_size=(8, 9, 9))
    assert [choice.site for choice in made.choices] == ["other"]


def pruned_away() -> nn.Module:
    layer = nn.Conv2d(8, 1, 3, bias=False)
    layer.weight, layer.out_channels = nn.Parameter(layer.weight[:0].detach()), 0
    return layer


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(8, 8, 3, groups=2), None),
        (nn.Conv2d(8, 16, 3, groups=8), "already depthwise"),
        (StdConv2d(8, 8, 3), None),
        (nn.ConvTranspose2d(8, 8, 3), None),
        (nn.ConvTranspose2d(8, 16, 3, groups=8), "already depthwise"),
        (nn.Conv2d(8, 1, 1), "too small: no form is cheaper"),
        (nn.Conv2d(8, 8, 3), None),
        (Conv2dSame(8, 8, 3), None),
        (nn.Conv2d(8, 8, 1), None),
        (nn.Conv2d(8, 8, 3, dtype=torch.bfloat16), None),
        (StdConv2d(8, 8, 3).to("meta"), None),
        (pruned_away(), "it has no channels"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_reason_is_given_for_what_is_left_alone(layer: nn.Module, reason: str | None):
    assert sites_of(Chain(layer=layer), (8, 9, 9))["layer"].reason == reason


def test_convolution_of_a_single_image_is_left_alone():
    class Unbatched(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x[0])

    assert sites_of(Unbatched())["conv"].reason == "its input is not a batch of maps, or of tokens"


def test_two_modules_with_one_weight_are_left_alone():
    model = Chain(first=nn.Conv2d(8, 8, 3, padding=1), second=nn.Conv2d(8, 8, 3, padding=1))
    model.second.weight = model.first.weight
    sites = sites_of(model, (8, 8, 8))
    assert sites["first"].reason == "shares its weight with second"
    assert sites["second"].reason == "shares its weight with first"


def test_convolution_that_never_runs_is_left_alone():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.spare = nn.Conv2d(8, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    site = sites_of(Unused())["spare"]
    assert site.reason == "never run by forward, or run without calling the module"
    assert site.calls == 0


def test_weight_read_by_forward_is_left_alone():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) * self.conv.weight.norm()

    assert sites_of(Reader())["conv"].reason == "its weight is read directly by forward"


@pytest.mark.parametrize("kind", ["forward", "forward pre"])
def test_convolution_with_hooks_is_left_alone(kind: str):
    conv = nn.Conv2d(3, 8, 3)
    if kind == "forward":
        conv.register_forward_hook(lambda module, args, output: output * 2)
    else:
        conv.register_forward_pre_hook(lambda module, args: args)
    site = sites_of(Chain(conv=conv))["conv"]
    assert site.reason == "hooks run with it"
    assert site.forms == []


def test_forms_of_a_site_are_those_that_apply():
    model = Chain(square=nn.Conv2d(3, 8, 3), row=nn.Conv2d(8, 8, (1, 3)), point=nn.Conv2d(8, 8, 1))
    sites = sites_of(model)
    every = ["separable", "blueprint", "bottleneck", "spatial", "channel", "tucker"]
    assert sites["square"].forms == every
    assert sites["row"].forms == [form for form in every if form != "spatial"]
    assert sites["point"].forms == ["channel"]


# followers


@pytest.mark.parametrize(
    ("after", "norm", "act"),
    [
        ([nn.BatchNorm2d(8), nn.ReLU()], "BatchNorm2d", "ReLU"),
        ([nn.BatchNorm2d(8)], "BatchNorm2d", None),
        ([nn.SiLU()], None, "SiLU"),
        ([nn.InstanceNorm2d(8), nn.GELU()], "InstanceNorm2d", "GELU"),
        ([nn.Conv2d(8, 8, 1)], None, None),
        ([nn.AdaptiveAvgPool2d(1)], None, None),
        ([nn.Flatten()], None, None),
        ([nn.ReLU(), nn.BatchNorm2d(8)], None, "ReLU"),
        ([], None, None),
    ],
    ids=[
        "norm and act", "norm", "act", "other norm", "convolution", "pool", "flatten",
        "act then norm", "nothing",
    ],
)  # fmt: skip
def test_following_modules_are_named(after: list[nn.Module], norm: str | None, act: str | None):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), *after)
    site = sites_of(model)["0"]
    assert (site.norm, site.act) == (norm, act)


@pytest.mark.parametrize(
    ("function", "act"),
    [
        (F.relu, "relu"),
        (torch.relu, "relu"),
        (torch.tanh, "tanh"),
        (lambda x: x.sigmoid(), "sigmoid"),
        (lambda x: F.hardswish(x), "hardswish"),
        (lambda x: F.max_pool2d(x, 2), None),
        (lambda x: F.interpolate(x, scale_factor=2), None),
        (lambda x: F.pad(x, (1, 1)), None),
        (lambda x: F.dropout(x, training=False), None),
        (lambda x: x + 1, None),
        (lambda x: x.flatten(1), None),
        (lambda x: F.relu(x) + x, None),
    ],
    ids=[
        "F.relu", "torch.relu", "torch.tanh", "method", "hardswish", "pool", "interpolate", "pad",
        "dropout", "plus", "flatten", "used twice",
    ],
)  # fmt: skip
def test_following_functions_are_named(function, act: str | None):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return function(self.conv(x))

    assert sites_of(Model())["conv"].act == act


# networks that cannot be traced


class Traceable(DataDependent):
    """The same network without the branch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def test_untraceable_network_has_the_same_sites_and_a_note():
    traced, no_note = find_sites(Traceable(), (3, 8, 8))
    untraced, note = find_sites(DataDependent(), (3, 8, 8))
    assert no_note == ""
    assert note.startswith("torch.fx cannot trace DataDependent: ")
    assert "\n" not in note
    assert [(s.path, s.sizes, s.cost, s.reason) for s in untraced] == [
        (s.path, s.sizes, s.cost, s.reason) for s in traced
    ]
    assert traced[0].act == "tanh"
    assert untraced[0].act is None


class Remembering(nn.Module):
    """Keeps a tensor computed from its parameters, as timm's levit does in eval mode."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.kept = {}

    def forward(self, x: Tensor) -> Tensor:
        if "bias" not in self.kept:
            self.kept["bias"] = 2 * self.conv.bias
        return self.conv(x) + self.kept["bias"][:, None, None]


def test_a_network_that_keeps_computed_tensors_can_be_copied():
    model = Remembering().eval()
    model(torch.zeros(1, 3, 8, 8))
    assert [site.path for site in find_sites(model, (3, 8, 8))[0]] == ["conv"]
