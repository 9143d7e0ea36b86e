"""Layers that compute their weight, or pad in their own way, are replaced as what they come to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers import image_batches, relative
from timm.layers import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from convswap import Budget, Layers, Plan, convert, count, distill, find_sites, load, plan, save
from convswap.network.bake import bake, padding_of
from convswap.network.cost import Size


class StaticPadding(nn.Conv2d):
    """Pads as TensorFlow does for one size of image, in a module of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.static_padding = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.static_padding(x)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)


class PadsItself(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias, self.stride)


class Masked(nn.Conv2d):
    """Sees no later rows, as those of PixelCNN."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones_like(self.weight)
        mask[:, :, 2:] = 0
        return self._conv_forward(x, self.weight * mask, self.bias)


class InPlace(nn.Conv2d):
    """The same, its weight masked for good."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data[:, :, 2:] = 0
        return super().forward(x)


class Autoregressive(nn.Linear):
    """Outputs see the inputs before them, as those of MADE."""

    def __init__(self, in_: int, out: int, held: bool = True):
        super().__init__(in_, out)
        mask = torch.arange(out)[:, None] >= torch.arange(in_)
        if held:
            self.register_buffer("mask", mask)
        else:
            self.mask = mask.float()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class Adapted(nn.Conv2d):
    """A product of low rank is added to its weight, as LoRA does it."""

    def __init__(self, *sizes: int, **settings: int):
        super().__init__(*sizes, **settings)
        rows, columns = self.out_channels * 3, self.in_channels * 3
        self.up, self.down = (nn.Parameter(torch.randn(n) / 9) for n in ((rows, 2), (2, columns)))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight + (self.up @ self.down).view(self.weight.shape)
        return self._conv_forward(x, weight, self.bias)


class LowRank(nn.Module):
    """The same as what a weight is put through."""

    def __init__(self, out_channels: int, columns: int):
        super().__init__()
        self.up, self.down = (
            nn.Parameter(torch.randn(n) / 9) for n in ((out_channels, 2), (2, columns))
        )

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view(weight.shape)


class Causal(nn.Conv1d):
    """Sees no later samples."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self.dilation[0] * (self.kernel_size[0] - 1), 0)))


class Chopped(nn.Conv1d):
    """The same: it is padded on both sides, and what comes of the end is taken off."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[..., : -self.padding[0]]


class CausalInTime(nn.Conv3d):
    """Sees no later frames."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1, 2, 0)))


class Even(nn.Conv2d):
    """Keeps the size of maps, though its kernel has no middle."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (2, 1, 2, 1)))


class Negated(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return -weight


class Normed(nn.Linear):
    """Rows of unit norm."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.normalize(self.weight), self.bias)


def parametrized(layer: nn.Module, by: nn.Module | None = None) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", by or Negated())
    return layer


def hooked(norm: Callable, layer: nn.Module) -> nn.Module:
    """Weight or spectral norm of before there were parametrisations."""
    return norm(layer)


def patched(name: str) -> nn.Module:
    """A layer whose method was replaced on the object, as tools that offload weights do."""
    layer = nn.Conv2d(6, 8, 3, **CONV)
    plain = getattr(layer, name)
    setattr(layer, name, lambda *args: plain(*args))
    return layer


def with_buffers(layer: nn.Module) -> nn.Module:
    """A layer whose weight and bias are not to be trained."""
    for name, tensor in [*layer.named_parameters()]:
        delattr(layer, name)
        layer.register_buffer(name, tensor.detach())
    return layer


def changed(layer: nn.Module, **settings: object) -> nn.Module:
    """A layer whose settings were changed after it was built."""
    for name, value in settings.items():
        setattr(layer, name, value)
    return layer


CONV = {"stride": 2, "padding": 1}
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "StdConv2d": lambda: StdConv2d(6, 8, 3, **CONV),
    "StdConv2dSame": lambda: StdConv2dSame(6, 8, 3, stride=2),
    "ScaledStdConv2d": lambda: ScaledStdConv2d(6, 8, 3, **CONV, bias=True),
    "ScaledStdConv2dSame": lambda: ScaledStdConv2dSame(6, 8, 3, stride=2, padding="same"),
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(6, 8, 3, **CONV)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Conv2d(6, 8, 3, **CONV)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Conv2d(6, 8, 3, **CONV)),
    "parametrized": lambda: parametrized(nn.Conv2d(6, 8, 3, **CONV)),
    "weight norm, hooks": lambda: hooked(nn.utils.weight_norm, nn.Conv2d(6, 8, 3, **CONV)),
    "spectral norm, hooks": lambda: hooked(nn.utils.spectral_norm, nn.Conv2d(6, 8, 3, **CONV)),
    "static padding": lambda: StaticPadding(6, 8, 3, stride=2),
    "pads itself": lambda: PadsItself(6, 8, 3, stride=2),
    "adapted": lambda: Adapted(6, 8, 3, **CONV),
    "adapted, parametrized": lambda: parametrized(nn.Conv2d(6, 8, 3, **CONV), LowRank(8, 54)),
    "grouped": lambda: parametrizations.weight_norm(nn.Conv2d(6, 8, 3, groups=2, **CONV)),
    "1-d": lambda: parametrizations.weight_norm(nn.Conv1d(6, 8, 3, **CONV)),
    "1-d, same": lambda: parametrizations.weight_norm(nn.Conv1d(6, 8, 4, padding="same")),
    "valid": lambda: parametrizations.weight_norm(nn.Conv2d(6, 8, 3, padding="valid")),
    "3-d": lambda: parametrizations.weight_norm(nn.Conv3d(6, 8, 3, **CONV)),
    "linear": lambda: Normed(6, 8),
    "pruned": lambda: prune.l1_unstructured(nn.Conv2d(6, 8, 3, **CONV), "weight", 0.3),
    "forward put in its place": lambda: patched("forward"),
    "_conv_forward put in its place": lambda: patched("_conv_forward"),
    "weight and bias as buffers": lambda: with_buffers(nn.Conv2d(6, 8, 3, **CONV)),
    "settings in a list": lambda: changed(nn.Conv2d(6, 8, 3, **CONV), stride=[2, 2]),
    "dilated later": lambda: changed(
        nn.Conv2d(6, 8, 3, **CONV), stride=(1, 1), dilation=(2, 2), padding=(2, 2)
    ),
    "padded later": lambda: changed(nn.Conv2d(6, 8, 3, stride=3), padding=(1, 1)),
    "settings as numbers": lambda: changed(nn.Conv2d(6, 8, 3), stride=2, padding=1, dilation=1),
    "causal": lambda: Causal(6, 8, 3, dilation=2),
    "causal, stride": lambda: Causal(6, 8, 4, stride=2),
    "causal, chopped": lambda: Chopped(6, 8, 3, padding=4, dilation=2),
    "causal, weight norm": lambda: parametrizations.weight_norm(Causal(6, 8, 3)),
    "causal in time": lambda: CausalInTime(6, 8, 3),
    "even kernel": lambda: Even(6, 8, 4),
    "1-d, padded later": lambda: changed(nn.Conv1d(6, 8, 3), padding=(1,)),
}
OLD = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")


class Around(nn.Module):
    """A layer, after one that makes its input and before one that reads it."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.axes = layer.weight.dim() - 2
        convs = {0: nn.Linear, 1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
        size = () if not self.axes else (3, 1, 1)
        self.first = convs[self.axes](3, 6, *size)
        self.layer = layer
        self.last = convs[self.axes](8, 8, *size)

    def forward(self, x: Tensor) -> Tensor:
        if self.axes == 0:
            x = x.flatten(2).mT
        elif self.axes == 1:
            x = x.flatten(2)
        elif self.axes == 3:
            x = x.unsqueeze(2).repeat(1, 1, 3, 1, 1)
        return self.last(torch.tanh(self.layer(torch.tanh(self.first(x)))))


def around(name: str) -> nn.Module:
    torch.manual_seed(0)
    return Around(LAYERS[name]()).eval()


@OLD
@pytest.mark.parametrize("name", LAYERS)
def test_the_plain_layer_computes_the_same(name: str):
    model, [batch] = around(name), image_batches((3, 8, 8), count=1)
    seen = []
    model.layer.register_forward_hook(lambda module, args, y: seen.append((args[0], y)))
    with torch.no_grad():
        model(batch)
    model.layer._forward_hooks.clear()
    (x, y), axes = seen[0], model.axes
    plain = bake(model.layer, Size(tuple(x.shape[2:]) if axes else (), tuple(y.shape[2:])))
    assert type(plain).__name__ in ("Conv1d", "Conv2d", "Conv2dSame", "Conv3d", "Linear")
    with torch.no_grad():
        assert relative(plain(x), y) < 1e-5


@OLD
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_planned_converted_saved_and_loaded(name: str, tmp_path):
    model, batches = around(name), image_batches((3, 8, 8))
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    [site] = [s for s in find_sites(model, (3, 8, 8))[0] if s.path == "layer"]
    assert site.reason is None
    made = plan(model, batches, Budget(macs=0.95), layers=Layers(only=("layer",)))
    small = convert(model, made, batches)
    assert count(small, (3, 8, 8)) == made.planned
    save(small, tmp_path / "out")
    again = load(tmp_path / "out", around(name))
    with torch.no_grad():
        assert torch.equal(again(batches[0]), small(batches[0]))
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())


@OLD
@pytest.mark.parametrize("name", LAYERS)
def test_at_full_rank_the_network_computes_the_same(name: str):
    from helpers import plan_for

    model, batches = around(name), image_batches((3, 8, 8))
    [site] = [s for s in find_sites(model, (3, 8, 8))[0] if s.path == "layer"]
    rank = min(site.unit.out_channels, site.unit.patch)
    made = plan_for(model, (3, 8, 8), {"layer": ("channel", rank)}, "weight")
    with torch.no_grad():
        assert relative(convert(model, made)(batches[0]), model(batches[0])) < 1e-5


class AddsNoise(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.1


class Twice(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(x.flip(3))


class Dynamic(nn.Conv2d):
    """Its weight depends on what it reads."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * x.mean().sigmoid(), self.bias)


class Drawn(nn.Conv2d):
    """Its weight is drawn anew in every pass."""

    def forward(self, x: Tensor) -> Tensor:
        drawn = self.weight + 0.1 * torch.randn_like(self.weight)
        return self._conv_forward(x, drawn, self.bias)


class Alternates(nn.Conv2d):
    """Every other call has another weight."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self._conv_forward(x, self.weight * (1 + self.calls % 2), self.bias)


class CutsOff(nn.Conv2d):
    """Large inputs, such as noise has none, are not read as they are."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.clamp(-6, 6))


@pytest.mark.parametrize("kind", [AddsNoise, Twice, Dynamic, Drawn, Alternates, CutsOff])
def test_what_no_plain_layer_computes_is_left_alone(kind: type[nn.Conv2d]):
    model = Around(kind(6, 8, 3, padding=1)).eval()
    reasons = {site.path: site.reason for site in find_sites(model, (3, 8, 8))[0]}
    assert reasons["layer"] == f"{kind.__name__} computes its output in its own way"


@pytest.mark.parametrize("layer", [
    Masked(6, 8, 3, **CONV), InPlace(6, 8, 3, **CONV), Autoregressive(6, 8),
    Autoregressive(6, 8, held=False),
], ids=["taps", "taps, in place", "numbers", "numbers, no buffer"])  # fmt: skip
def test_what_must_not_see_a_part_of_its_input_is_left_alone(layer: nn.Module):
    [site] = [s for s in find_sites(Around(layer), (3, 8, 8))[0] if s.path == "layer"]
    assert site.reason.startswith("a mask hides some of its weights")


def test_padding_by_tensorflows_rule_is_part_of_the_plan():
    model, batches = around("StdConv2dSame"), image_batches((3, 8, 8))
    [choice] = [c for c in plan(model, batches, Budget(macs=0.4)).choices if c.site == "layer"]
    assert choice.pads == "same"
    assert padding_of(nn.Conv2d(1, 1, 3, padding=1)) == (1, 1)


@pytest.mark.parametrize("name", ["1-d, same", "valid"])
def test_padding_in_words_survives_the_file_of_a_plan(name, tmp_path):
    model, batches = around(name), image_batches((3, 8, 8))
    made = plan(model, batches, Budget(macs=0.6))
    made.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == made
    small = convert(model, made, batches)
    assert "layer" in [choice.site for choice in made.choices]
    assert small(batches[0]).shape == model(batches[0]).shape


@pytest.mark.parametrize("name", ["resnetv2_50x1_bit", "nf_resnet26", "dm_nfnet_f0"])
def test_timms_standardised_convolutions_are_found(name: str):
    model = timm.create_model(name).eval()
    sites, _ = find_sites(model, (3, 64, 64))
    share = sum(s.cost.macs for s in sites if not s.reason) / sum(s.cost.macs for s in sites)
    assert share > 0.9


@pytest.mark.parametrize("name", ["forward", "_conv_forward"])
def test_what_was_put_in_place_and_does_something_else_is_left_alone(name: str):
    """Tiled images, for one: the padding goes round."""
    layer = nn.Conv2d(6, 8, 3, **CONV)

    def tiling(x: Tensor, *given: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1,) * 4, mode="circular"), layer.weight, layer.bias, stride=2)

    setattr(layer, name, tiling)
    model, batches = Around(layer).eval(), image_batches((3, 8, 8))
    [site] = [s for s in find_sites(model, (3, 8, 8))[0] if s.path == "layer"]
    assert site.reason == "Conv2d computes its output in its own way"
    small = convert(model, plan(model, batches, Budget(macs=0.9)), batches)
    assert type(small.layer) is nn.Conv2d


class Shortcuts(nn.Module):
    """The addend of one sum is last read inside another layer; that is called by keyword."""

    def __init__(self):
        super().__init__()
        self.first, self.padded = nn.Conv2d(3, 16, 1), StaticPadding(16, 16, 3)
        self.padded.static_padding = nn.ZeroPad2d(1)
        self.last = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + self.last(self.padded(x=x))


def test_a_map_that_is_too_small_but_for_its_own_padding_is_no_error():
    plain = bake(CausalInTime(4, 8, 3), Size((1, 8, 8), (1, 8, 8)))
    assert padding_of(plain) == (2, 0, 1, 1, 1, 1)


def test_a_causal_layer_is_found_again_in_what_took_its_place():
    from helpers import plan_for

    model = around("causal")
    small = convert(model, plan_for(model, (3, 8, 8), {"layer": ("channel", 5)}, "weight"))
    [site] = [site for site in find_sites(small, (3, 8, 8))[0] if site.path == "layer.reduce"]
    assert (site.reason, site.pads) == (None, (4, 0))


def test_what_lies_inside_a_layer_is_not_looked_for_once_that_is_plain():
    model = Shortcuts().eval()
    [site] = [site for site in find_sites(model, (3, 8, 8))[0] if site.path == "last"]
    assert site.sum.other.path == "padded"
    batches = image_batches((3, 8, 8))
    made = plan(model, batches, Budget(macs=0.6))
    small = distill(convert(model, made, batches), model, batches, epochs=1)
    assert small.padded.weight.shape == model.padded.weight.shape
