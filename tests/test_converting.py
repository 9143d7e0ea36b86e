"""Conversion: the same network with other layers, fitted as well as promised."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import TINY, hooks_left, image_batches, plan_for, relative, tiny
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from convswap.errors import ConversionError, ModelError, PlanError
from convswap.fitting import steps_for
from convswap.forms import FORMS, Kernel, ranks, write_
from convswap.network.observe import find_sites
from convswap.network.replace import install_
from convswap.network.sums import LEAST_SCALE
from convswap.planning import plan
from convswap.plans import Budget, Choice, Plan
from convswap.record import record_of
from convswap.statistics import curvature
from convswap.statistics.moments import RIDGES, Moments
from convswap.support.randomness import seeded
from convswap.surgery.convert import convert

# maps that lie in memory in another way are rounded otherwise, and a search makes more of that
ROUNDED = {"atol": 1e-3, "rtol": 1e-2}

FITS = ["weight", "moments", "corrected"]


def every_site(model: nn.Module, input_size: tuple, form: str | None, full: bool) -> dict:
    """A choice for every site the form fits, or each site's last form where None is said."""
    choices = {}
    for site in find_sites(model, input_size)[0]:
        name = form or (site.forms or [None])[-1]
        if name not in site.forms:
            continue
        top = FORMS[name].full_rank(site.unit)
        choices[site.path] = name, top if full else ranks(name, site.unit, 4)[1]
    return choices


@pytest.fixture
def errors_count_alike(monkeypatch):
    """Whatever they cost the output of the network."""
    monkeypatch.setattr(curvature, "HEEDED", 0.0)


def outputs(model: nn.Module, batch: Tensor) -> Tensor:
    """All outputs of a network in one row."""
    with torch.no_grad():
        return torch.cat([leaf.flatten() for leaf in tree_leaves(model(batch))])


# the same network


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("form", [form for form in FORMS if form != "blueprint"])
def test_full_rank_leaves_the_outputs_as_they_were(form: str, fit: str):
    model, input_size = tiny("residual")
    batches = image_batches(input_size)
    small = convert(model, plan_for(model, input_size, every_site(
        model, input_size, form, full=True), fit), batches)  # fmt: skip
    assert isinstance(small.first, nn.Sequential)
    unseen = image_batches(input_size, count=1, seed=9)[0]
    assert relative(outputs(small, unseen), outputs(model, unseen)) < 1e-3


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("name", TINY)
def test_full_rank_leaves_the_outputs_of_every_network(name: str, fit: str):
    model, input_size = tiny(name)
    batches = image_batches(input_size)
    choices = every_site(model, input_size, "channel", full=True)
    small = convert(model, plan_for(model, input_size, choices, fit), batches)
    for path in choices:
        assert isinstance(small.get_submodule(path), nn.Sequential)
    assert relative(outputs(small, batches[0]), outputs(model, batches[0])) < 1e-3


@pytest.mark.parametrize("fit", ["weight", "corrected"])
@pytest.mark.parametrize("name", TINY)
def test_conversion_leaves_the_original_as_it_was(name: str, fit: str):
    model, input_size = tiny(name)
    batches = image_batches(input_size)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modules = [(path, type(module)) for path, module in model.named_modules()]
    trainable = [p.requires_grad for p in model.parameters()]
    kept = [batch.clone() for batch in batches]
    made = plan_for(model, input_size, every_site(model, input_size, None, full=False), fit)
    small = convert(model, made, batches)
    torch.testing.assert_close(dict(model.state_dict()), before, atol=0, rtol=0)
    assert [(path, type(module)) for path, module in model.named_modules()] == modules
    assert [p.requires_grad for p in model.parameters()] == trainable
    assert hooks_left(model) == hooks_left(small) == 0
    assert all(map(torch.equal, batches, kept))
    assert not {id(p) for p in model.parameters()} & {id(p) for p in small.parameters()}


@pytest.mark.parametrize("name", TINY)
def test_class_and_the_names_of_other_parameters_stay(name: str):
    model, input_size = tiny(name)
    choices = every_site(model, input_size, None, full=False)
    made = plan_for(model, input_size, choices, "weight")
    small = convert(model, made)
    assert type(small) is type(model)
    replaced = {
        path for site in find_sites(model, input_size)[0] for path in site.paths
        if site.path in {choice.site for choice in made.choices}
    }  # fmt: skip
    kept = {key: value for key, value in model.state_dict().items()
            if key.rpartition(".")[0] not in replaced}  # fmt: skip
    state = small.state_dict()
    assert kept.keys() <= state.keys()
    assert all(state[key].shape == value.shape for key, value in kept.items())
    assert not any(f"{path}.weight" in state for path in replaced)


@pytest.mark.parametrize("fit", FITS)
def test_weights_of_other_layers_stay(fit: str):
    model, input_size = tiny("residual")
    made = plan_for(model, input_size, {"first": ("channel", 3)}, fit)
    small = convert(model, made, image_batches(input_size))
    for name, parameter in small.named_parameters():
        if not name.startswith("first."):
            assert torch.equal(parameter, model.get_parameter(name))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("name", ["residual", "called twice", "two outputs", "data-dependent"])
def test_same_seed_gives_bit_equal_weights(name: str, fit: str):
    states = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        model, input_size = tiny(name)
        choices = every_site(model, input_size, None, full=False)
        made = plan_for(model, input_size, choices, fit)
        states.append(dict(convert(model, made, image_batches(input_size)).state_dict()))
    torch.testing.assert_close(states[0], states[1], atol=0, rtol=0)


@pytest.mark.parametrize("trained", [torch.float64, torch.bfloat16])
def test_layers_have_the_dtype_of_what_they_replace(trained: torch.dtype):
    model, input_size = tiny("in place")
    model = model.to(trained)
    batches = [batch.to(trained) for batch in image_batches(input_size)]
    choices = every_site(model, input_size, "channel", full=True)
    small = convert(model, plan_for(model, input_size, choices), batches)
    assert {p.dtype for p in small.parameters()} == {trained}
    tolerance = 1e-3 if trained == torch.float64 else 0.05
    assert relative(outputs(small, batches[0]), outputs(model, batches[0])) < tolerance


def test_plans_are_remembered_in_order():
    model, input_size = tiny("residual")
    batches = image_batches(input_size)
    first = plan_for(model, input_size, {"first": ("channel", 3)})
    once = convert(model, first, batches)
    second = plan_for(once, input_size, {"second": ("separable", 2)})
    twice = convert(once, second, batches)
    chosen = [[c.site for c in done.choices] for done in record_of(twice).plans]
    assert chosen == [["first"], ["second"]]
    assert record_of(model).plans == ()


# sites under several names, sites called several times


@pytest.mark.parametrize("fit", FITS)
def test_module_under_two_paths_is_replaced_once_and_under_both(fit: str):
    model, input_size = tiny("two paths")
    made = plan_for(model, input_size, {"block.0": ("channel", 4)}, fit)
    small = convert(model, made, image_batches(input_size))
    assert small.alias is small.block[0]
    assert isinstance(small.alias, nn.Sequential)
    assert len(list(small.parameters())) == len(list(model.parameters())) + 1


@pytest.mark.parametrize("name", ["called twice", "two paths"])
@pytest.mark.parametrize("form", ["separable", "bottleneck", "channel"])
def test_layer_called_twice_is_fitted_to_both_calls(name: str, form: str, errors_count_alike):
    model, input_size = tiny(name)
    path = {"called twice": "shared", "two paths": "block.0"}[name]
    conv = model.get_submodule(path)
    rank = ranks(form, Kernel(*conv.weight.shape), 4)[1]
    batches = image_batches(input_size)
    made = plan_for(model, input_size, {path: (form, rank)}, "corrected")
    small = convert(model, made, batches)

    reads, moments = [], Moments(conv, made.seed)
    handle = conv.register_forward_pre_hook(lambda module, args: reads.append(args[0]))
    for batch in batches:
        model(batch)
    handle.remove()
    with torch.no_grad():
        for x in [*reads[::2], *reads[1::2]]:  # every batch's first call, then the second
            moments.update(x, conv(x))
    problem, kernel = moments.problem(conv.weight.detach()), Kernel(*conv.weight.shape)
    weights = FORMS[form].fit(problem, kernel, rank, steps_for(kernel, [])).weights
    for layer, weight in zip(small.get_submodule(path), weights, strict=True):
        torch.testing.assert_close(layer.weight.flatten(), weight.flatten().float(), **ROUNDED)


# how well it is fitted


@pytest.mark.parametrize("form", ["separable", "spatial", "channel"])
@pytest.mark.parametrize("name", ["residual", "in place", "concat", "uneven"])
def test_corrected_fit_equals_running_both_networks_again_for_every_site(
    name: str, form: str, errors_count_alike
):
    """The slow way to the same weights, without the walk."""
    model, input_size = tiny(name)
    for module in model.modules():  # so that statistics are not settled afterwards
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
    batches = image_batches(input_size)
    made = plan_for(model, input_size, every_site(model, input_size, form, full=False), "corrected")
    assert made.choices
    small = convert(model, made, batches)

    slow = install_(copy.deepcopy(model), made)
    added = {"second": "first"} if name == "residual" else {}  # x + second(.. first(x))
    for choice in made.choices:
        conv, layers = model.get_submodule(choice.site), slow.get_submodule(choice.site)
        moments, seen = Moments(conv, made.seed), {}

        def keep(network: nn.Module, path: str, key: str, read: bool, seen: dict = seen):
            def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
                seen[key] = args[0] + 0 if read else output + 0

            return network.get_submodule(path).register_forward_hook(hook)

        handles = [
            keep(model, choice.site, "written", False),
            keep(slow, choice.site, "read", True),
        ]
        if other := added.get(choice.site):
            handles += [keep(model, other, "added", True), keep(slow, other, "adds", True)]
        with torch.no_grad():
            for batch in batches:
                model(batch)
                slow(batch)
                wanted = seen["written"]
                if other:
                    wanted = wanted + (seen["added"] - seen["adds"]) / (1 + LEAST_SCALE**2)
                moments.update(seen["read"], wanted)
        for handle in handles:
            handle.remove()
        kernel = Kernel(*conv.weight.shape)
        problem = moments.problem(conv.weight.detach(), corrected=True)
        steps = steps_for(kernel, [])
        weights = FORMS[choice.form].fit(problem, kernel, choice.rank, steps).weights
        spelled = FORMS[choice.form].spell(weights, kernel)
        write_(layers, weights, moments.mean_y[0] - spelled @ moments.mean_x[0])
    torch.testing.assert_close(dict(small.state_dict()), dict(slow.state_dict()), **ROUNDED)


@pytest.mark.parametrize("fit", ["moments", "corrected"])
@pytest.mark.parametrize("form", ["channel", "spatial", "bottleneck", "separable"])
def test_errors_that_the_output_minds_are_made_smaller_than_others(form: str, fit, monkeypatch):
    torch.manual_seed(0)
    first, second = (nn.Conv2d(*channels, 3, padding=1) for channels in ((6, 8), (8, 4)))
    second.weight.data[:, :5] *= 0.05
    model, input_size = nn.Sequential(first, nn.ReLU(), second).eval(), (6, 8, 8)
    batches = image_batches(input_size, size=64)
    rank = ranks(form, Kernel(8, 6, 3, 3), 4)[0 if form == "separable" else 1]
    made = plan_for(model, input_size, {"0": (form, rank)}, fit)
    heeding = convert(model, made, batches)
    monkeypatch.setattr(curvature, "HEEDED", 0.0)
    alike = convert(model, made, batches)
    errors = [
        sum((small(batch) - model(batch)).square().mean().item() for batch in batches)
        for small in (heeding, alike)
    ]
    assert errors[0] < 0.95 * errors[1]


class Linear(nn.Module):
    """Two convolutions with nothing between them."""

    def __init__(self, size: int):
        super().__init__()
        self.first = nn.Conv2d(6, 8, size, padding=size // 2)
        self.second = nn.Conv2d(8, 8, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("rank", [2, 4, 6])
def test_correction_lowers_the_output_error_of_a_linear_network(rank: int, size: int):
    model = Linear(size).eval()
    batches = image_batches((6, 10, 10), count=4)
    error = {}
    for fit in ("moments", "corrected"):
        choices = {"first": ("channel", 3), "second": ("channel", rank)}
        small = convert(model, plan_for(model, (6, 10, 10), choices, fit), batches)
        error[fit] = sum((outputs(small, b) - outputs(model, b)).pow(2).sum() for b in batches)
    assert error["corrected"] <= error["moments"]
    assert error["corrected"] > 0


def test_corrected_layer_is_the_closed_form_least_squares():
    """T = W + (E[yx'] - W S) (S + bI)^-1, centred, and the bias that keeps the mean."""
    model = Linear(1).eval()
    batches = image_batches((6, 10, 10), count=4)
    choices = {"first": ("channel", 2), "second": ("channel", 8)}
    small = convert(model, plan_for(model, (6, 10, 10), choices, "corrected"), batches)
    with torch.no_grad():
        images = torch.cat(batches)
        x = small.first(images).permute(0, 2, 3, 1).flatten(0, 2).double()
        y = model(images).permute(0, 2, 3, 1).flatten(0, 2).double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    moment = (x - x_mean).T @ (x - x_mean) / len(x)
    cross = (y - y_mean).T @ (x - x_mean) / len(x)
    # clean images, plenty of them: the held-out half asks for the smallest ridge
    noise = RIDGES[-1] * moment.diagonal().mean() * torch.eye(8, dtype=torch.float64)
    dense = model.second.weight.detach().flatten(1).double()
    target = dense + (cross - dense @ moment) @ torch.linalg.inv(moment + noise)
    layers = small.second
    spelled = layers.expand.weight.flatten(1) @ layers.reduce.weight.flatten(1)
    assert relative(spelled, target) < 1e-3
    assert relative(layers.expand.bias, y_mean - target @ x_mean) < 1e-3


@pytest.mark.parametrize("fit", ["moments", "corrected"])
@pytest.mark.parametrize("form", FORMS)
def test_mean_output_of_a_fitted_layer_is_the_originals(form: str, fit: str):
    model = Linear(3).eval()
    batches = image_batches((6, 10, 10))
    rank = ranks(form, Kernel(8, 6, 3, 3), 4)[0]
    small = convert(model, plan_for(model, (6, 10, 10), {"first": (form, rank)}, fit), batches)
    with torch.no_grad():
        got = small.first(torch.cat(batches)).mean((0, 2, 3))
        wanted = model.first(torch.cat(batches)).mean((0, 2, 3))
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_fit_to_images_beats_the_fit_to_weights():
    model, input_size = tiny("residual")
    batches = image_batches(input_size, count=6)
    choices = every_site(model, input_size, "separable", full=False)
    error = {}
    for fit in FITS:
        small = convert(model, plan_for(model, input_size, choices, fit), batches)
        error[fit] = relative(outputs(small, batches[0]), outputs(model, batches[0]))
    assert error["corrected"] < error["weight"]
    assert error["moments"] < error["weight"]


@pytest.mark.parametrize("fit", FITS)
def test_zero_layer_stays_zero(fit: str):
    """A layer initialised to zero, as the last of many residual branches is."""
    model, input_size = tiny("residual")
    nn.init.zeros_(model.second.weight)
    nn.init.zeros_(model.second.bias)
    batches = image_batches(input_size)
    made = plan(model, batches, Budget(macs=0.5), fit=fit)
    choices = {c.site: (c.form, c.rank) for c in made.choices} | {"second": ("separable", 1)}
    small = convert(model, plan_for(model, input_size, choices, fit), batches)
    assert small.second(torch.randn(2, 8, 8, 8)).abs().max() < 1e-6


@pytest.mark.parametrize("fit", ["moments", "corrected"])
def test_constant_images_are_survived(fit: str):
    """Images that say nothing leave the dense weights as the best guess."""
    model, input_size = Linear(1).eval(), (6, 10, 10)
    batches = [torch.ones(4, *input_size)] * 2
    choices = every_site(model, input_size, "channel", full=True)
    small = convert(model, plan_for(model, input_size, choices, fit), batches)
    unseen = image_batches(input_size, count=1)[0]
    assert relative(outputs(small, unseen), outputs(model, unseen)) < 0.01


# timm's padding, batches, batch norm


@pytest.mark.parametrize("form", ["separable", "spatial", "bottleneck", "channel", "tucker"])
def test_timms_same_padding_is_converted(form: str):
    model = nn.Sequential(Conv2dSame(3, 8, 3, stride=2), nn.Tanh(), Conv2dSame(8, 8, 5)).eval()
    batches = image_batches((3, 11, 10))
    choices = every_site(model, (3, 11, 10), form, full=True)
    small = convert(model, plan_for(model, (3, 11, 10), choices), batches)
    assert set(choices) == {"0", "2"}
    assert relative(outputs(small, batches[0]), outputs(model, batches[0])) < 1e-3


@pytest.mark.parametrize("fit", FITS)
def test_batches_may_be_tuples(fit: str):
    model, input_size = tiny("residual")
    batches = image_batches(input_size)
    labels = torch.zeros(6, dtype=torch.long)
    made = plan_for(model, input_size, {"first": ("channel", 3)}, fit)
    plain = convert(model, made, batches)
    labelled = convert(model, made, ((batch, labels) for batch in batches))
    torch.testing.assert_close(
        dict(plain.state_dict()), dict(labelled.state_dict()), atol=0, rtol=0
    )


@pytest.mark.parametrize("sizes", [(5, 2, 1), (1, 1, 1, 1)], ids=["uneven", "one by one"])
def test_batches_may_be_of_any_size(sizes: tuple[int, ...]):
    model, input_size = tiny("residual")
    images = image_batches(input_size, count=1, size=sum(sizes))[0]
    choices = every_site(model, input_size, "channel", full=True)
    small = convert(model, plan_for(model, input_size, choices), images.split(sizes))
    assert relative(outputs(small, images), outputs(model, images)) < 1e-3


def test_weights_are_fitted_without_images_where_they_alone_count():
    model, input_size = tiny("residual")
    choices = every_site(model, input_size, "spatial", full=True)
    small = convert(model, plan_for(model, input_size, choices, "weight"))
    unseen = image_batches(input_size, count=1)[0]
    assert relative(outputs(small, unseen), outputs(model, unseen)) < 1e-5


class Pooled(nn.Module):
    """Batch norm after global pooling: one value per channel and image."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x).mean((2, 3), keepdim=True))


@pytest.mark.parametrize("size", [1, 6])
def test_batch_norm_over_single_values_is_survived(size: int):
    model = Pooled().eval()
    batches = image_batches((3, 8, 8), count=4, size=size)
    plan = plan_for(model, (3, 8, 8), {"conv": ("separable", 2)}, "moments")
    assert outputs(convert(model, plan, batches), batches[0]).isfinite().all()


def test_batch_norm_keeps_its_settings_and_stays_in_eval_mode():
    model, input_size = tiny("residual")
    choices = every_site(model, input_size, "separable", full=False)
    small = convert(
        model, plan_for(model, input_size, choices, "weight"), image_batches(input_size)
    )
    assert small.norm.momentum == model.norm.momentum
    assert not any(module.training for module in small.modules())


def test_batch_norm_statistics_are_not_settled_for_the_worse():
    """At full rank nothing can be gained, so they stay."""
    model, input_size = tiny("residual")
    choices = every_site(model, input_size, "channel", full=True)
    small = convert(
        model, plan_for(model, input_size, choices, "weight"), image_batches(input_size)
    )
    assert torch.equal(small.norm.running_mean, model.norm.running_mean)
    assert torch.equal(small.norm.running_var, model.norm.running_var)


@pytest.mark.parametrize("fit", ["weight", "moments", "corrected"])
def test_only_corrected_fits_leave_batch_norm_statistics_as_they_are(fit: str, monkeypatch):
    model, input_size = tiny("residual")
    plan = plan_for(model, input_size, every_site(model, input_size, "separable", full=False), fit)
    estimated = []
    monkeypatch.setattr(nn.BatchNorm2d, "reset_running_stats", lambda norm: estimated.append(norm))
    convert(model, plan, image_batches(input_size))
    assert bool(estimated) is (fit != "corrected")


def test_converted_network_can_be_trained():
    model, input_size = tiny("residual")
    made = plan_for(model, input_size, every_site(model, input_size, None, full=False))
    small = convert(model, made, image_batches(input_size)).train()
    small(image_batches(input_size)[0]).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in small.parameters())


# refused


def test_plan_that_converts_nothing_is_refused():
    model, input_size = tiny("residual")
    with pytest.raises(ConversionError, match="the plan converts nothing"):
        convert(model, plan_for(model, input_size, {}), image_batches(input_size))


@pytest.mark.parametrize("fit", ["moments", "corrected"])
def test_fit_to_images_without_images_is_refused(fit: str):
    model, input_size = tiny("residual")
    with pytest.raises(PlanError, match=f"fit '{fit}' needs images - give batches"):
        convert(model, plan_for(model, input_size, {"first": ("channel", 3)}, fit))


@pytest.mark.parametrize("fit", FITS)
def test_weights_that_are_not_finite_are_refused(fit: str):
    model, input_size = tiny("residual")
    made = plan_for(model, input_size, {"first": ("channel", 3)}, fit)
    with torch.no_grad():
        model.first.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"first\.weight"):
        convert(model, made, image_batches(input_size))


class Wandering(nn.Module):
    """The first image takes another way than all of them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blank = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.blank(self.stem(x)) if len(x) == 1 else self.stem(x)


@pytest.mark.parametrize("fit", ["moments", "corrected"])
def test_layer_that_not_all_images_reach_is_not_left_unwritten(fit: str):
    model = Wandering().eval()
    made = plan_for(model, (3, 8, 8), {"stem": ("channel", 4), "blank": ("channel", 4)}, fit)
    with pytest.raises(ConversionError, match="blank"):
        convert(model, made, image_batches((3, 8, 8)))


class Exits(nn.Module):
    """Of bright images the first layers are enough; some run through the last more often."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        if x.amax() < 5:
            y = torch.tanh(self.second(y))
        for _ in range(1 + (x.amax() > 9)):
            y = self.third(y)
        return y


def test_a_network_may_take_other_ways_for_other_images():
    torch.manual_seed(0)
    model, x = Exits().eval(), torch.rand(8, 3, 8, 8)
    batches = [x, 6 * x, 10 * x, x.flip(0), 10 * x.flip(0)]
    made = plan(model, batches, Budget(macs=0.5))
    assert {choice.site for choice in made.choices} >= {"second", "third"}
    small = convert(model, made, batches)
    for batch in batches:
        assert relative(small(batch), model(batch)) < 0.5


def test_a_layer_that_only_the_first_image_reaches_is_left_alone():
    """In its batch, it takes another way."""
    torch.manual_seed(0)
    model, x = Exits().eval(), torch.rand(8, 3, 8, 8)
    x[-1] *= 6
    made = plan(model, [x], Budget(macs=0.7))
    assert [choice.site for choice in made.choices] == ["third"]
    assert relative(convert(model, made, [x])(x), model(x)) < 0.5


class Draws(nn.Module):
    """One of its layers, drawn at random, is run."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.others = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.others[torch.randint(3, ()).item()](torch.tanh(self.first(x)))


@pytest.mark.parametrize("seed", range(4))
def test_layers_may_be_drawn_at_random(seed: int):
    torch.manual_seed(seed)
    model, batches = Draws().eval(), image_batches((3, 8, 8))
    made = plan(model, batches, Budget(macs=0.9))
    small = convert(model, made, batches)
    with seeded(0):
        wanted = model(batches[0])
    with seeded(0):
        assert relative(small(batches[0]), wanted) < 0.7


def test_install_names_the_layer_that_is_missing():
    model, input_size = tiny("residual")
    made: Plan = plan_for(model, input_size, {"third": ("channel", 3)})
    with pytest.raises(PlanError, match="the network has no layer third"):
        install_(model, made)


@pytest.mark.parametrize("site", ["act", "norm"])
def test_install_names_the_layer_that_is_no_convolution(site: str):
    model, input_size = tiny("residual")
    with pytest.raises(PlanError, match=f"layer {site} is no standard convolution or linear layer"):
        install_(model, plan_for(model, input_size, {site: ("channel", 3)}))


class Encoder(nn.Module):
    """PyTorch's encoder over tokens of an image, of which the last are padding."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.patch, self.encoder = nn.Conv2d(3, 16, 2, 2), nn.TransformerEncoder(layer, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).mT
        padding = (torch.arange(tokens.shape[1]) >= 12).expand(len(tokens), -1)
        return self.encoder(tokens, src_key_padding_mask=padding)[:, :12]


class Operators(TorchDispatchMode):
    """The names of all that runs inside."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("index", [0, 1])
def test_an_encoder_runs_the_layers_that_replace_its_own(index: int):
    """What PyTorch runs for all of an encoder's layer at once takes the weight of each alone."""
    torch.manual_seed(0)
    model, size = Encoder().eval(), (3, 8, 8)
    path, x = f"encoder.layers.{index}.linear1", image_batches(size)[0]
    small = convert(model, plan_for(model, size, {path: ("channel", 16)}, "weight"))
    fused, ran = [], []
    for network in (model, small):
        with torch.no_grad(), Operators() as seen:
            ran.append(network(x))
        fused.append(seen.names.count("_transformer_encoder_layer_fwd"))
    assert fused == [2, 1]
    assert relative(ran[1], ran[0]) < 1e-5


def test_the_layers_of_a_deep_network_share_the_steps():
    small, wide = Kernel(32, 32, 3, 3), Kernel(512, 512, 3, 3)
    searched, solved = (
        Choice(site="", form=form, rank=1, damage=0) for form in ("bottleneck", "channel")
    )
    alone = steps_for(small, [searched])
    assert steps_for(small, 64 * [searched] + 64 * [solved]) == alone > steps_for(wide, [searched])
    assert steps_for(small, 128 * [searched]) == alone // 2
