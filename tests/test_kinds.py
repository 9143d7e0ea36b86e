"""Every kind of layer: along one axis, two or three, in groups, linear on maps and on tokens."""

from __future__ import annotations

from functools import cache
from itertools import product

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers import relative
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from convswap import Budget, Plan, convert, count, find_sites, load, open_target, plan, save
from convswap.forms import FORMS, PLAIN, Factorized, build, in_groups, kernel_of, unit_of, write_
from convswap.forms.group_fits import GroupFits, joined
from convswap.runtimes.int8 import equalised
from convswap.statistics.moments import Moments, weight_problems
from convswap.statistics.rows import outputs, patches
from convswap.timing.microbench import signatures

LAYERS = {
    "1-d": (nn.Conv1d(6, 8, 5, stride=2, padding=2), (6, 17)),
    "1-d, same, dilated": (nn.Conv1d(6, 8, 3, padding="same", dilation=2), (6, 12)),
    "1-d, reflect, groups": (
        nn.Conv1d(6, 8, 3, padding=1, padding_mode="reflect", groups=2), (6, 9)
    ),
    "2-d, groups": (nn.Conv2d(8, 12, 3, padding=1, groups=4), (8, 6, 7)),
    "2-d, groups, stride": (
        nn.Conv2d(8, 8, (5, 3), stride=(2, 1), groups=2, bias=False), (8, 11, 9)
    ),
    "2-d, groups, 1x1": (nn.Conv2d(16, 16, 1, groups=2), (16, 5, 5)),
    "3-d": (nn.Conv3d(4, 6, 3, stride=(1, 2, 2), padding=1), (4, 4, 7, 6)),
    "3-d, in space alone": (nn.Conv3d(4, 6, (1, 3, 3), padding=(0, 1, 1)), (4, 3, 6, 6)),
    "3-d, in time alone": (
        nn.Conv3d(4, 6, (3, 1, 1), padding=(1, 0, 0), stride=(2, 1, 1)), (4, 5, 4, 4)
    ),
    "3-d, groups": (nn.Conv3d(4, 8, 3, padding=1, groups=2, dilation=(2, 1, 1)), (4, 6, 5, 5)),
    "1-d, transposed": (nn.ConvTranspose1d(6, 8, 4, stride=2, padding=1), (6, 9)),
    "1-d, transposed, gaps": (nn.ConvTranspose1d(6, 5, 2, stride=3, output_padding=1), (6, 7)),
    "2-d, transposed": (nn.ConvTranspose2d(6, 8, 3, 2, padding=1, output_padding=1), (6, 5, 4)),
    "2-d, transposed, oblong": (
        nn.ConvTranspose2d(6, 4, (2, 3), stride=(3, 1), padding=(0, 2), bias=False), (6, 5, 4)
    ),
    "2-d, transposed, dilated, groups": (
        nn.ConvTranspose2d(8, 6, 3, stride=2, dilation=(2, 1), groups=2), (8, 4, 5)
    ),
    "2-d, transposed, 2x2": (nn.ConvTranspose2d(12, 6, 2, stride=2), (12, 4, 4)),
    "3-d, transposed": (nn.ConvTranspose3d(4, 6, (1, 4, 4), (1, 2, 2), (0, 1, 1)), (4, 3, 4, 3)),
    "linear on tokens": (nn.Linear(10, 12), (7, 10)),
    "linear on a map": (nn.Linear(10, 6, bias=False), (5, 4, 10)),
}  # fmt: skip


def case(name: str) -> tuple[nn.Module, Tensor]:
    """A layer in double precision, and inputs for it."""
    layer, size = LAYERS[name]
    torch.manual_seed(0)
    for parameter in layer.double().requires_grad_(False).parameters():
        parameter.normal_()
    return layer, torch.randn(3, *size, dtype=torch.float64)


WAYS = [
    (name, form)
    for name in LAYERS
    for form in FORMS
    if FORMS[form].applies(unit_of(LAYERS[name][0]))
]


def replaced(layer: nn.Module, form: str, rank: object, weights: list[Tensor]) -> Factorized:
    groups = getattr(layer, "groups", 1)
    layers = in_groups(FORMS[form].layers(unit_of(layer), rank), groups)
    row = build(layers, layer, layer.bias is not None)
    write_(row, weights, layer.bias)
    return row


@pytest.mark.parametrize("name", LAYERS)
def test_patches_times_weight_is_the_layer(name: str):
    layer, x = case(name)
    y = layer(x)
    axes = 1 if isinstance(layer, nn.Linear) else x.dim() - 2
    for step, offset in ((1, 0), (2, 1)):
        at = ((step,) * axes, (offset,) * axes)
        rows, wanted = patches(layer, x, *at).mT.flatten(3), outputs(layer, y, *at)
        weights = kernel_of(layer).flatten(1).unflatten(0, (rows.shape[2], -1))
        got = torch.einsum("npgd,god->npgo", rows, weights)
        if layer.bias is not None:
            got = got + layer.bias.unflatten(0, (rows.shape[2], -1))
        assert relative(got, wanted) < 1e-12


@pytest.mark.parametrize(("name", "form"), [w for w in WAYS if w[1] != "blueprint"])
def test_full_rank_is_exact(name: str, form: str):
    layer, x = case(name)
    fits = GroupFits(weight_problems(layer), unit_of(layer))
    rank = FORMS[form].full_rank(fits.kernel)
    row = replaced(layer, form, rank, joined(fits.fit(form, rank, 0)))
    assert relative(row(x), layer(x)) < 1e-9
    assert relative(row.weight, layer.weight) < 1e-9


@pytest.mark.parametrize(("name", "form"), WAYS)
def test_channels_between_the_layers_of_a_form_scale_freely(name: str, form: str):
    layer, x = case(name)
    fits = GroupFits(weight_problems(layer), unit_of(layer))
    rank = FORMS[form].full_rank(fits.kernel)
    row = replaced(layer, form, rank, joined(fits.fit(form, rank, 0)))
    wanted, first = row(x), row[0].weight.clone()
    equalised(row, [x[:2], x[2:]])
    assert relative(row(x), wanted) < 1e-12
    assert not torch.equal(row[0].weight, first)


@pytest.mark.parametrize(("name", "form"), WAYS)
def test_a_fit_to_moments_is_no_worse_on_them_than_a_fit_to_the_weights(name: str, form: str):
    layer, x = case(name)
    x = x.cumsum(1)  # neighbouring channels agree
    moments = Moments(layer)
    moments.update(x, layer(x))
    by_weight = GroupFits(weight_problems(layer), unit_of(layer))
    by_moments = GroupFits(moments.problems(), unit_of(layer))
    rank = (1, 1) if form == "tucker" else 1
    errors = []
    for fits in (by_weight, by_moments):
        spelled = fits.spell(form, fits.fit(form, rank, 30))
        lefts = [p.left(w.to(p.moment)) for w, p in zip(spelled, by_moments.problems, strict=True)]
        errors.append(by_moments.damage(lefts, torch.eye(len(kernel_of(layer))).double()))
    assert errors[1] <= errors[0] * 1.001


@pytest.mark.parametrize("name", LAYERS)
def test_the_layers_row_has_the_class_settings_and_groups_of_the_layer(name: str):
    layer, x = case(name)
    groups = getattr(layer, "groups", 1)
    row = build(in_groups(FORMS["channel"].layers(unit_of(layer), 1), groups), layer, True)
    plain = type(layer) if isinstance(layer, nn.Linear) else PLAIN[layer.weight.dim() - 2]
    assert [type(each) for each in row] == [type(layer), plain]
    assert row(x).shape == layer(x).shape
    assert row.weight.shape == layer.weight.shape


@pytest.mark.parametrize("form", ["bottleneck", "channel", "spatial"])
@pytest.mark.parametrize("size", [(9, 7), (10, 7), (10, 8)])
def test_a_transposed_layer_may_be_told_what_size_to_write(size: tuple, form: str):
    layer = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1).double().requires_grad_(False)
    x = torch.randn(3, 4, 5, 4, dtype=torch.float64)
    y = layer(x, size)
    rows = patches(layer, x, (1, 1), (0, 0), size).mT.flatten(3)
    got = rows @ kernel_of(layer).flatten(1).T + layer.bias
    assert relative(got, outputs(layer, y, (1, 1), (0, 0))) < 1e-12
    fits = GroupFits(weight_problems(layer), unit_of(layer))
    rank = FORMS[form].full_rank(fits.kernel)
    row = replaced(layer, form, rank, joined(fits.fit(form, rank, 0)))
    assert relative(row(x, output_size=y.shape), y) < 1e-9


# in networks


class TextCnn(nn.Module):
    """Kim 2014: convolutions over embedded tokens."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 12)
        self.convs = nn.ModuleList(nn.Conv1d(12, 16, k, padding=1) for k in (3, 4))
        self.head = nn.Linear(32, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens).mT
        return self.head(torch.cat([F.relu(conv(x)).amax(2) for conv in self.convs], 1))


class Volume(nn.Module):
    """A 3-d residual block, one convolution in space and one in time."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(1, 8, 3, padding=1)
        self.space = nn.Conv3d(8, 8, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.norm = nn.BatchNorm3d(8)
        self.time = nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.time(F.relu(self.norm(self.space(x))))


class Mixer(nn.Module):
    """Patches as tokens, linear layers across channels and across tokens, and a shortcut."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.tokens = nn.Linear(16, 16)
        self.channels = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2)
        x = x + self.tokens(x)
        return self.head((x.mT + self.channels(x.mT)).mean(1))


class Grouped(nn.Module):
    """A ResNeXt's bottleneck."""

    def __init__(self):
        super().__init__()
        self.reduce = nn.Conv2d(3, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.norm = nn.BatchNorm2d(16)
        self.expand = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(F.relu(self.norm(self.grouped(F.relu(self.reduce(x))))))


class SharedHead(nn.Module):
    """One head on maps of three sizes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        return [self.head(F.avg_pool2d(x, n)) for n in (1, 2, 4)]


class UNet(nn.Module):
    """Down, and up again by a transposed convolution, beside what was there before."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.down = nn.Conv2d(12, 24, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(24, 12, 4, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.head = nn.Conv2d(24, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        up = F.relu(self.norm(self.up(F.relu(self.down(x)))))
        return self.head(torch.cat([x, up], 1))


class ToldSize(UNet):
    """Up to whatever size was there before."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(24, 12, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        up = self.up(F.relu(self.down(x)), output_size=x.shape)
        return self.head(torch.cat([x, F.relu(self.norm(up))], 1))


class Generator(nn.Sequential):
    """Radford et al. 2016: from a vector to an image."""

    def __init__(self):
        super().__init__(
            nn.ConvTranspose2d(20, 16, 4, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.ConvTranspose2d(16, 12, 4, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
            nn.ConvTranspose2d(12, 8, 3, 2, 1, output_padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3),
        )  # fmt: skip


class Vocoder(nn.Sequential):
    """Kong et al. 2020: from a spectrogram to sound, its weights normalised."""

    def __init__(self):
        super().__init__(
            weight_norm(nn.Conv1d(10, 16, 7, padding=3)), nn.ReLU(),
            weight_norm(nn.ConvTranspose1d(16, 8, 8, stride=4, padding=2)), nn.ReLU(),
            spectral_norm(nn.ConvTranspose1d(8, 8, 4, stride=2, padding=1, groups=2)), nn.ReLU(),
            nn.Conv1d(8, 4, 3),
        )  # fmt: skip


NETWORKS = {
    "text": (TextCnn, lambda: torch.randint(20, (12, 15)), {"convs.0", "convs.1"}),
    "volume": (Volume, lambda: torch.randn(12, 1, 4, 8, 8), {"stem", "space", "time"}),
    "mixer": (
        Mixer, lambda: torch.randn(12, 3, 16, 16), {"patch", "tokens", "channels.0", "channels.2"}
    ),
    "grouped": (Grouped, lambda: torch.randn(12, 3, 8, 8), {"reduce", "grouped", "expand"}),
    "u-net": (UNet, lambda: torch.randn(12, 3, 16, 16), {"stem", "down", "up", "head"}),
    "told a size": (
        ToldSize, lambda: torch.randn(12, 3, 16, 15), {"stem", "down", "up", "head"}
    ),
    "generator": (Generator, lambda: torch.randn(60, 20, 1, 1), {"0", "3", "6", "8"}),
    "vocoder": (Vocoder, lambda: torch.randn(12, 10, 12), {"0", "2", "4", "6"}),
    "shared head": (SharedHead, lambda: torch.randn(12, 3, 16, 16), {"stem", "head"}),
}  # fmt: skip


def network(name: str) -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    make, inputs, _ = NETWORKS[name]
    return make().eval(), [inputs() for _ in range(3)]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_layers_that_can_be_replaced_are_found(name: str):
    model, batches = network(name)
    sites, _ = find_sites(model, batches[0])
    assert {site.path for site in sites if not site.reason} == NETWORKS[name][2]
    assert sum(site.cost.macs for site in sites) == count(model, batches[0]).macs


@cache
def planned(name: str, fit: str) -> tuple[nn.Module, list[Tensor], Plan]:
    """A network of the table, images for it, and a plan that several tests use."""
    model, batches = network(name)
    return model, batches, plan(model, batches, Budget(macs=0.6), fit=fit)


@pytest.mark.parametrize(("name", "fit"), [
    *((name, "corrected") for name in NETWORKS),
    *product([*NETWORKS][::4], ("weight", "moments")),
])  # fmt: skip
def test_it_is_planned_converted_saved_and_loaded(name: str, fit: str, tmp_path):
    model, batches, made = planned(name, fit)
    small = convert(model, made, batches)
    assert count(small, batches[0]) == made.planned
    assert made.planned.macs <= 0.6 * made.dense.macs
    save(small, tmp_path / "out")
    again = load(tmp_path / "out", NETWORKS[name][0]())
    with torch.no_grad():
        for ours, theirs in zip(small(batches[0]), again(batches[0]), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_corrected_fit_loses_less_than_one_to_the_weights(name: str):
    (model, batches, made), lost = planned(name, "corrected"), {}
    with torch.no_grad():
        wanted = [model(batch) for batch in batches]
        for fit in ("weight", "corrected"):
            small = convert(model, made.model_copy(update={"fit": fit}), batches)
            lost[fit] = sum(
                (a - b).square().sum().item()
                for batch, outputs in zip(batches, wanted, strict=True)
                for a, b in zip(small(batch), outputs, strict=True)
            )
    assert lost["corrected"] < lost["weight"]


@pytest.mark.parametrize("name", NETWORKS)
def test_its_layers_can_be_timed(name: str):
    model, batches = network(name)
    target = open_target("eager", threads=1)
    for site in find_sites(model, batches[0])[0]:
        if site.reason:
            continue
        for signature in signatures(site):
            x = signature.inputs(2)
            shapes = set()
            for way in ((None, None), ("channel", 1)):
                layers = signature.network(*way)
                shapes.add(tuple(layers(x).shape))
                assert target.variants(layers, x)
            assert len(shapes) == 1


@pytest.mark.parametrize(
    "name", ["convnext_tiny", "resnext50_32x4d", "mixer_s32_224", "swin_tiny_patch4_window7_224"]
)
def test_timms_linear_and_grouped_layers_are_found(name: str):
    model = timm.create_model(name).eval()
    sites, _ = find_sites(model, (3, 224, 224))
    found = {site.kind for site in sites if not site.reason}
    share = sum(s.cost.macs for s in sites if not s.reason) / count(model, (3, 224, 224)).macs
    assert "Linear" in found or any(s.groups > 1 and not s.reason for s in sites)
    assert share > 0.9
