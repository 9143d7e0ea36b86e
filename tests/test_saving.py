"""Whatever is saved can be loaded: what could not be is refused when it is saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MethodType

import pytest
import timm
import torch
from helpers import image_batches, plan_for, tiny
from torch import nn

from convswap import Budget, Layers, convert, distill, load, open_model, plan, record_of, save
from convswap.errors import ArtifactError

SIZE = (3, 32, 32)


def small_of(model: nn.Module, site: str, size: tuple = SIZE) -> nn.Module:
    return convert(model, plan_for(model, size, {site: ("channel", 2)}, fit="weight"))


def timms() -> nn.Module:
    return timm.create_model("test_resnet", num_classes=5).eval()


def opened(name: str, **kwargs: object) -> nn.Module:
    return open_model(name, random_weights=True, kwargs=kwargs)


def local_folder(folder: Path) -> nn.Module:
    """A timm network that was opened from a folder as the hub has them."""
    folder.mkdir()
    made = timm.create_model("test_resnet", num_classes=4)
    config = {
        "architecture": "test_resnet",
        "num_classes": 4,
        "pretrained_cfg": made.pretrained_cfg,
    }
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(made.state_dict(), folder / "pytorch_model.bin")
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


NETWORKS: dict[str, Callable[[Path], nn.Module]] = {
    "data parallel": lambda path: nn.DataParallel(small_of(timms(), "layer1.0.conv1")),
    "torch.compile": lambda path: torch.compile(
        small_of(timms(), "layer1.0.conv1"), backend="eager"
    ),
    "arguments in a mapping": lambda path: small_of(
        opened("timm:resnet18", block_args={"attn_layer": "se"}, channels=[8, 8, 8, 8]),
        "layer1.0.conv1",
    ),
    "converted twice and distilled": lambda path: distill(
        small_of(first := small_of(timms(), "layer1.0.conv1"), "layer2.0.conv1"),
        first, image_batches(SIZE, count=1), 1,
    ),
    "of a timm folder": lambda path: small_of(local_folder(path / "hub"), "layer1.0.conv1"),
    "half precision": lambda path: small_of(timms().bfloat16(), "layer1.0.conv1"),
    "in a channels_last layout": lambda path: small_of(
        timms().to(memory_format=torch.channels_last), "layer1.0.conv1"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_is_saved_is_loaded_and_computes_the_same(kind: str, tmp_path):
    torch.manual_seed(0)
    small = NETWORKS[kind](tmp_path).eval()
    save(small, tmp_path / "out")
    again = load(tmp_path / "out")
    x = torch.randn(2, *SIZE, dtype=next(small.parameters()).dtype)
    with torch.no_grad():
        torch.testing.assert_close(again(x), small(x))
    assert record_of(again).plans


class Remembers(nn.Module):
    """Keeps something that is no tensor with its weights."""

    def __init__(self, extra: object):
        super().__init__()
        self.conv, self.extra = nn.Conv2d(3, 8, 3), extra

    def get_extra_state(self) -> object:
        return self.extra

    def set_extra_state(self, state: object) -> None:
        self.extra = state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class InIntegers(nn.Module):
    """A part of it is quantised."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), torch.ao.nn.quantized.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:TypedStorage")
@pytest.mark.parametrize("make", [lambda: Remembers({"steps": 3}), InIntegers])
def test_state_that_is_no_tensor_is_refused_in_one_line_when_it_is_saved(make, tmp_path):
    model, batches = make().eval(), [torch.rand(4, *SIZE)] * 2
    made = plan(model, batches, Budget(macs=0.8), layers=Layers(only=("conv",)))
    assert "no tensors that a file can hold; the network cannot be saved" in made.notes[0]
    small = distill(convert(model, made, batches), model, batches, 1, tell=lambda line: None)
    with pytest.raises(ArtifactError) as caught:
        save(small, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


class Renames(nn.Module):
    """A checkpoint of a larger whole, of which this is a part."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)

    def state_dict(self, *args, **kwargs):
        return {f"model.{name}": value for name, value in super().state_dict(*args).items()}

    def load_state_dict(self, state, strict=True):  # without PyTorch's own `assign`
        return super().load_state_dict({name[6:]: value for name, value in state.items()}, strict)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x))


class LeavesOut(Renames):
    """A checkpoint of what was trained."""

    def state_dict(self, *args, **kwargs):
        state = nn.Module.state_dict(self, *args, **kwargs)
        return {name: value for name, value in state.items() if not name.startswith("head")}


class Hides(Renames):
    """A layer that keeps its tensors in its own way."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        destination[f"{prefix}all"] = torch.ones(3)


@pytest.mark.parametrize("part_of", [lambda network: network, nn.Sequential])
@pytest.mark.parametrize("make", [Renames, LeavesOut])
def test_a_network_whose_checkpoints_are_others_is_distilled_saved_and_loaded(
    make, part_of, tmp_path
):
    model = part_of(make()).eval()
    small = small_of(model, "conv" if isinstance(model, Renames) else "0.conv")
    better = distill(small, model, image_batches(SIZE, count=1), epochs=1)
    save(better, tmp_path / "out")
    again, images = load(tmp_path / "out", model=part_of(make())), torch.rand(2, *SIZE)
    assert torch.equal(again(images), better(images))


def test_tensors_that_could_not_be_loaded_again_are_refused_when_they_are_saved(tmp_path):
    with pytest.raises(ArtifactError, match="all under another name, or not at all"):
        save(small_of(Hides().eval(), "conv"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


class HoldsItself(nn.Module):
    """A function in it uses its own layers."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.act = lambda x: torch.relu(self.norm(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(x))


class Hooked(HoldsItself):
    """So does a hook."""

    def __init__(self):
        super().__init__()
        norm = self.norm
        self.act = nn.Identity()
        self.act.register_forward_hook(lambda module, args, output: norm(output))


class Default(HoldsItself):
    """So does what a function takes where nothing else is given."""

    def __init__(self):
        super().__init__()
        self.act = lambda x, *, norm=self.norm: torch.relu(norm(x))


class Nested(HoldsItself):
    """A function in a list, that calls itself and another that uses them."""

    def __init__(self):
        super().__init__()
        norm, self.conv2 = self.norm, nn.Conv2d(8, 8, 3)

        def inner(x: torch.Tensor) -> torch.Tensor:
            return torch.relu(norm(x))

        def again(x: torch.Tensor, left: int) -> torch.Tensor:
            return again(x, left - 1) if left else self.conv2(inner(x))

        self.steps = [again]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.steps[0](self.conv(x), 2)


class HandsOn(HoldsItself):
    """A part of a function that uses them."""

    def __init__(self):
        super().__init__()
        self.act = partial(self.act)


class Patched(HoldsItself):
    """A layer's own forward runs inside of another, in place of it."""

    def __init__(self):
        super().__init__()
        forward = self.norm.forward
        self.norm.forward = lambda x: forward(x) / 2


class PatchedMethod(HoldsItself):
    """So it does as a method."""

    def __init__(self):
        super().__init__()
        forward = self.norm.forward
        self.norm.forward = MethodType(lambda norm, x: forward(x) * norm.eps, self.norm)


class Settings(dict):
    """Of a class of its own, as trainers keep them beside their networks."""


class Row(HoldsItself):
    """Layers, and what is to be done with them, are in a list that a function holds."""

    def __init__(self):
        super().__init__()
        steps = [self.norm, {"last": self.norm.forward}]
        self.settings = Settings(rate=0.1)
        self.act = lambda x: steps[1]["last"](steps[0](x))


WHOLE = {
    "a method in a function": (Patched, Patched),
    "a method in a method": (PatchedMethod, PatchedMethod),
    "a list": (Row, Row),
    "a function": (HoldsItself, HoldsItself),
    "a hook": (Hooked, Hooked),
    "a part of a function": (HandsOn, HandsOn),
    "a default": (Default, Default),
    "functions in functions": (Nested, Nested),
    "data parallel": (HoldsItself, lambda: nn.DataParallel(HoldsItself())),
    "torch.compile": (HoldsItself, lambda: torch.compile(HoldsItself())),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_no_layer_of_the_network_that_is_given_is_used_with_its_own_weights(kind, tmp_path):
    make, given = WHOLE[kind]
    model = make().eval()
    nn.init.normal_(model.norm.running_mean), nn.init.uniform_(model.norm.weight)
    small = small_of(model, "conv2" if make is Nested else "conv", (3, 8, 8))
    save(small, tmp_path / "out")
    again = load(tmp_path / "out", given())
    assert type(again) is make
    nn.init.normal_(model.norm.running_mean)  # of no use to either
    with torch.no_grad():
        assert torch.equal(again(torch.ones(1, 3, 8, 8)), small(torch.ones(1, 3, 8, 8)))


def test_the_network_that_is_given_stays_as_it_is_where_it_can_be_copied(tmp_path):
    model, size = tiny("residual")
    save(small_of(model, "first", size), tmp_path / "out")
    before = str(model)
    assert load(tmp_path / "out", model) is not model
    assert str(model) == before


def test_a_network_of_the_users_own_comes_back_in_its_own_architecture(tmp_path):
    model, size = tiny("own class")
    small = small_of(model, "first", size)
    save(small, tmp_path / "out")
    again = load(tmp_path / "out", tiny("own class")[0])
    with torch.no_grad():
        assert torch.equal(again(torch.ones(1, *size)), small(torch.ones(1, *size)))
