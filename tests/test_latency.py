"""The table of layer times: what is measured, what is kept, and what is never believed."""

from __future__ import annotations

import copy
import json
import math
import os
from dataclasses import replace

import pytest
import torch
from helpers import CONVOLUTIONS, convolution, plan_for, tiny
from stopwatch import Clock, FakeTarget
from torch import nn

from convswap import LatencyTable, find_sites
from convswap.errors import RankError, TargetError
from convswap.forms import ranks
from convswap.network.replace import install_
from convswap.timing.layer_times import layer_times
from convswap.timing.microbench import signatures


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def weights(module: nn.Module, layout: str) -> float:
    """A cost per weight of the convolutions: a second each."""
    return float(sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d)))


def site_of(name: str, path: str):
    model, size = tiny(name)
    return next(site for site in find_sites(model, size)[0] if site.path == path)


@pytest.fixture
def site():
    return site_of("residual", "first")  # 8 to 8 channels, 3x3, ReLU follows


CHANNEL = 8 * 9 * 3 + 3 * 8  # weights of form channel at rank 3 for that site


def test_times_are_those_of_the_target(clock, site, tmp_path):
    table = LatencyTable(FakeTarget(clock, weights), cache=tmp_path)
    table.measure([(site, "channel", 3)])
    assert table.ms(site) == pytest.approx(1e3 * 8 * 8 * 9)
    assert table.ms(site, "channel", 3) == pytest.approx(1e3 * CHANNEL)
    assert table.problems == []


def test_the_fastest_layout_of_each_counts(clock, site, tmp_path):
    def cost(module, layout):
        return (2.0 if layout == "slow" else 1.0) * weights(module, layout)

    table = LatencyTable(FakeTarget(clock, cost, layouts=("slow", "fast")), cache=tmp_path)
    table.measure([(site, "channel", 3)])
    assert table.ms(site, "channel", 3) == pytest.approx(1e3 * CHANNEL)


def test_layers_stand_in_the_context_they_have(clock):
    stem = site_of("residual", "stem")
    target = FakeTarget(clock, weights)
    LatencyTable(target, batch=4, cache=None).measure([(stem, "channel", 2)])
    (dense, x), (small, _) = target.seen
    assert [type(m).__name__ for m in dense] == ["ReLU", "Conv2d", "BatchNorm2d", "ReLU"]
    assert [type(m).__name__ for m in small] == ["ReLU", "Factorized", "BatchNorm2d", "ReLU"]
    assert x.shape == (4, 3, 8, 8)
    for module in (dense, small):
        values = module(x)
        assert values.isfinite().all()
        assert values.abs().max() < 10


def test_equal_layers_are_measured_once(clock, site):
    target = FakeTarget(clock, weights)
    table = LatencyTable(target, cache=None)
    twin = replace(site, path="elsewhere")
    table.measure([(site, "channel", 3), (twin, "channel", 3), (site, None, None)])
    assert len(target.seen) == 2
    assert table.ms(twin, "channel", 3) == table.ms(site, "channel", 3)


def test_a_layer_called_twice_costs_both_calls(clock):
    shared = site_of("called twice", "shared")

    def cost(module, layout):
        return 1.0 if target.seen[-1][1].shape[-1] == 12 else 0.25

    target = FakeTarget(clock, cost)
    table = LatencyTable(target, cache=None)
    table.measure([(shared, "spatial", 2)])
    assert len(target.seen) == 4
    assert table.ms(shared) == pytest.approx(1250)
    assert table.ms(shared, "spatial", 2) == pytest.approx(1250)


def test_progress_counts_what_has_to_be_measured(clock, site):
    steps = []
    table = LatencyTable(FakeTarget(clock, weights), cache=None)
    other = site_of("residual", "stem")
    wanted = [(site, "channel", 3), (site, "channel", 2), (other, "channel", 2)]
    table.measure(wanted, lambda *step: steps.append(step))
    assert steps == [("latency", 2, 3), ("latency", 3, 3)]


# --- kept times -----------------------------------------------------------------------------


def measured(clock, folder, wanted, batch=1, version="1") -> int:
    """How many layers a new table measures."""
    target = FakeTarget(clock, weights, version=version)
    LatencyTable(target, batch, folder).measure(wanted)
    return len(target.seen)


def test_a_second_run_measures_nothing(clock, site, tmp_path):
    assert measured(clock, tmp_path, [(site, "channel", 3)]) == 2
    assert measured(clock, tmp_path, [(site, "channel", 3)]) == 0
    table = LatencyTable(FakeTarget(clock, weights), cache=tmp_path)
    assert table.ms(site, "channel", 3) == pytest.approx(1e3 * CHANNEL)


def test_times_are_kept_apart_by_target_version_and_batch(clock, site, tmp_path):
    wanted = [(site, "channel", 3)]
    measured(clock, tmp_path, wanted)
    assert measured(clock, tmp_path, wanted, version="2") == 2
    assert measured(clock, tmp_path, wanted, batch=2) == 2
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("change", [
    {"kernel": (8, 8, 5, 5)}, {"stride": (2, 1)}, {"padding": (0, 1)}, {"padding": "same"},
    {"dilation": (2, 2)}, {"bias": True}, {"norm": "BatchNorm2d"}, {"act": None},
])  # fmt: skip
def test_other_layers_are_measured_anew(change, clock, site, tmp_path):
    measured(clock, tmp_path, [(site, "channel", 3)])
    kernel, stride = change.get("kernel", site.kernel), change.get("stride", (1, 1))
    dilation, padding = change.get("dilation", (1, 1)), change.get("padding", (1, 1))
    conv = nn.Conv2d(8, 8, kernel[2:], stride, padding, dilation)
    height, width = conv(torch.zeros(1, 8, 8, 8)).shape[-2:]
    size = replace(site.sizes[0], written=(height, width))
    other = replace(site, sizes=(size,), **change)
    assert measured(clock, tmp_path, [(other, "channel", 3)]) == 2


def test_another_input_size_is_measured_anew(clock, site, tmp_path):
    measured(clock, tmp_path, [(site, "channel", 3)])
    size = replace(site.sizes[0], read=(9, 8), written=(9, 8))
    assert measured(clock, tmp_path, [(replace(site, sizes=(size,)), "channel", 3)]) == 2


@pytest.mark.parametrize("change", [
    {"activation": "GELU"}, {"padding_mode": "reflect"}, {"path": "x"}, {"itemsize": 2},
])  # fmt: skip
def test_what_does_not_matter_is_not_measured_anew(change, clock, site, tmp_path):
    measured(clock, tmp_path, [(site, "channel", 3)])
    change = {"act": change["activation"]} if "activation" in change else change
    assert measured(clock, tmp_path, [(replace(site, **change), "channel", 3)]) == 0


def test_a_slower_machine_today_does_not_make_a_new_rank_look_slow(clock, site, tmp_path):
    measured(clock, tmp_path, [(site, "channel", 3)])
    busy = FakeTarget(clock, lambda module, layout: 5 * weights(module, layout))
    table = LatencyTable(busy, cache=tmp_path)
    table.measure([(site, "channel", 2)])
    assert table.ms(site) == pytest.approx(1e3 * 8 * 8 * 9)
    assert table.ms(site, "channel", 2) == pytest.approx(1e3 * CHANNEL * 2 / 3)


def test_the_file_says_what_was_measured_where(clock, site, tmp_path):
    measured(clock, tmp_path, [(site, "channel", 3)], batch=2)
    (path,) = tmp_path.iterdir()
    document = json.loads(path.read_text())
    assert document["fingerprint"]["target"] == "fake"
    assert document["fingerprint"]["batch"] == "2"
    assert [key.rpartition(": ")[2] for key in document["ms"]] == ["dense", "channel 3"]
    assert len(path.stem) == 16


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", '{"ms": {}}', '{"fingerprint": {}, "ms": 3}', "\x00\xff", "[" * 100_000,
])  # fmt: skip
def test_a_damaged_file_is_measured_over(text, clock, site, tmp_path):
    wanted = [(site, "channel", 3)]
    measured(clock, tmp_path, wanted)
    (path,) = tmp_path.iterdir()
    path.write_text(text, encoding="latin-1")
    assert measured(clock, tmp_path, wanted) == 2
    assert measured(clock, tmp_path, wanted) == 0


@pytest.mark.parametrize("value", [
    "NaN", "Infinity", "-1.0", "0", '"fast"', "null", "1" + 400 * "0", "1e300",
])  # fmt: skip
def test_nonsense_in_the_file_is_not_believed(value, clock, site, tmp_path):
    wanted = [(site, "channel", 3)]
    measured(clock, tmp_path, wanted)
    (path,) = tmp_path.iterdir()
    document = json.loads(path.read_text())
    document["ms"] = dict.fromkeys(document["ms"], "HERE")
    path.write_text(json.dumps(document).replace('"HERE"', value))
    assert measured(clock, tmp_path, wanted) == 2


def test_a_pipe_in_place_of_the_file_is_not_waited_for(clock, site, tmp_path):
    wanted = [(site, "channel", 3)]
    measured(clock, tmp_path, wanted)
    (path,) = tmp_path.iterdir()
    path.unlink()
    os.mkfifo(path)
    assert measured(clock, tmp_path, wanted) == 2
    assert measured(clock, tmp_path, wanted) == 0


def test_two_processes_keep_each_other_s_times(clock, site, tmp_path):
    one, two = (LatencyTable(FakeTarget(clock, weights), cache=tmp_path) for _ in range(2))
    one.measure([(site, "channel", 3)])
    two.measure([(site, "channel", 2)])
    assert measured(clock, tmp_path, [(site, "channel", 3), (site, "channel", 2)]) == 0


def test_what_was_measured_before_an_interruption_is_kept(clock, site, tmp_path):
    other = site_of("residual", "stem")

    def interrupted(module, layout):
        if module[1].in_channels == 3:
            raise KeyboardInterrupt
        return 1.0

    table = LatencyTable(FakeTarget(clock, interrupted), cache=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        table.measure([(site, None, None), (other, None, None)])
    assert measured(clock, tmp_path, [(site, None, None), (other, None, None)]) == 1


def test_a_folder_that_cannot_be_written_is_reported_once(clock, site, tmp_path):
    (tmp_path / "file").write_text("")
    table = LatencyTable(FakeTarget(clock, weights), cache=tmp_path / "file" / "latency")
    table.measure([(site, None, None), (site_of("residual", "stem"), None, None)])
    assert table.ms(site) > 0
    (problem,) = table.problems
    assert "not kept" in problem
    assert str(tmp_path) not in problem


# --- targets that fail ----------------------------------------------------------------------

NONSENSE = [math.nan, 0.0, -1.0, math.inf]


def failing(when, how):
    """A cost function: `how` for the modules that `when` picks, an error or a number."""

    def cost(module, layout):
        if not when(module):
            return 1.0
        if isinstance(how, Exception):
            raise how
        return how

    return cost


def is_dense(module: nn.Module) -> bool:
    return isinstance(module[1], nn.Conv2d)


def test_a_replacement_that_cannot_run_is_left_out_and_named(clock, site):
    cost = failing(lambda module: not is_dense(module), RuntimeError("no kernel\nmore"))
    table = LatencyTable(FakeTarget(clock, cost), cache=None)
    table.measure([(site, "channel", 3)])
    assert table.problems == ["target fake cannot run layer first as channel 3: no kernel"]
    assert table.ms(site) == pytest.approx(1000)
    with pytest.raises(TargetError, match="target fake has no time of layer first as channel 3"):
        table.ms(site, "channel", 3)


def test_a_dense_layer_that_cannot_run_is_an_error_that_names_it(clock, site):
    target = FakeTarget(clock, failing(is_dense, RuntimeError("no kernel")))
    with pytest.raises(TargetError, match=r"^target fake cannot run layer first: no kernel$"):
        LatencyTable(target, cache=None).measure([(site, "channel", 3)])


@pytest.mark.parametrize("value", NONSENSE)
def test_a_senseless_time_of_a_dense_layer_is_an_error(value, clock, site, tmp_path):
    table = LatencyTable(FakeTarget(clock, failing(is_dense, value)), cache=tmp_path)
    with pytest.raises(TargetError, match=r"target fake has a time of .* for layer first"):
        table.measure([(site, "channel", 3)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_senseless_time_of_a_replacement_is_left_out(value, clock, site, tmp_path, monkeypatch):
    monkeypatch.setattr("convswap.timing.latency.SECONDS_EACH", 0)  # a clock may run backwards here
    cost = failing(lambda module: not is_dense(module), value)
    table = LatencyTable(FakeTarget(clock, cost), cache=tmp_path)
    table.measure([(site, "channel", 3)])
    (problem,) = table.problems
    assert "layer first as channel 3" in problem
    assert measured(clock, tmp_path, [(site, "channel", 3)]) == 2  # nothing bad was kept


def test_an_impossible_rank_is_refused(clock, site):
    with pytest.raises(RankError):
        LatencyTable(FakeTarget(clock, weights), cache=None).measure([(site, "channel", 99)])


# --- layers of a converted network ----------------------------------------------------------


def test_layers_of_plans_in_a_row_are_measured_each_in_its_own_network(clock):
    model, size = tiny("residual")
    first = plan_for(model, size, {"second": ("bottleneck", 6)})
    between = install_(copy.deepcopy(model), first)
    then = plan_for(between, size, {"first": ("channel", 3), "second.expand": ("channel", 2)})
    table = LatencyTable(FakeTarget(clock, weights), cache=None)
    times = layer_times(table, model, [first, then])
    assert [(t.site, t.form, t.rank) for t in times] == [
        ("second", "bottleneck", 6), ("first", "channel", 3), ("second.expand", "channel", 2),
    ]  # fmt: skip
    assert times[1].ms == pytest.approx(1e3 * CHANNEL)
    assert times[1].macs_kept == pytest.approx(CHANNEL / (8 * 8 * 9))
    assert times[2].ms_dense == pytest.approx(1e3 * 6 * 8)
    assert model.second.weight.shape == (8, 8, 3, 3)


# --- signatures -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own
@pytest.mark.parametrize("name", [n for n in CONVOLUTIONS if CONVOLUTIONS[n].get("dtype", 0)
                                  != torch.bfloat16])  # fmt: skip
def test_every_convolution_and_form_has_the_output_size_of_the_site(name):
    conv, x = convolution(name)
    model = nn.Sequential(conv.float(), nn.ReLU())
    (site,), _ = find_sites(model, x.shape[1:])
    (signature,) = signatures(site)
    wanted = conv(x.float()).shape
    images = signature.inputs(len(x))
    assert signature.network()(images).shape == wanted
    for form in site.forms:
        rank = ranks(form, signature.kernel, 3)[0]
        assert signature.network(form, rank)(images).shape == wanted, form


def test_the_random_state_is_left_alone(site):
    before = torch.get_rng_state()
    signatures(site)[0].network("channel", 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_signatures_read_the_same_in_every_process(site):
    assert str(signatures(site)[0]) == (
        "8x8x3x3 on 8x8 stride 1x1 padding 1x1 dilation 1x1 act"
    )  # fmt: skip


# --- the ranks a target likes ---------------------------------------------------------------


def blocks(size: int, overhead: float = 0.0):
    """A target whose first convolution computes channels in blocks, whatever the others do."""

    def cost(module, layout):
        first = next(m for m in module.modules() if isinstance(m, nn.Conv2d))
        return overhead + (math.ceil(first.out_channels / size) * size) ** 2

    return cost


@pytest.mark.parametrize("size", [4, 8, 16])
def test_ranks_are_best_multiples_of_the_block_a_target_computes_in(size, clock):
    table = LatencyTable(FakeTarget(clock, blocks(size)), cache=None)
    assert table.multiple() == size


def test_where_every_channel_takes_its_time_any_rank_will_do(clock):
    assert LatencyTable(FakeTarget(clock, blocks(1)), cache=None).multiple() == 1


def test_where_calls_take_all_the_time_large_steps_cost_nothing(clock):
    assert LatencyTable(FakeTarget(clock, blocks(1, overhead=1e6)), cache=None).multiple() == 16


def test_the_multiple_is_measured_once(clock, tmp_path):
    first, second = (FakeTarget(clock, blocks(8)) for _ in range(2))
    assert LatencyTable(first, cache=tmp_path).multiple() == 8
    assert LatencyTable(second, cache=tmp_path).multiple() == 8
    assert first.seen
    assert not second.seen


def test_a_target_that_cannot_run_the_trial_likes_any_rank(clock):
    def cost(module, layout):
        if any(m.groups > 1 for m in module.modules() if isinstance(m, nn.Conv2d)):
            raise RuntimeError("no depthwise convolutions")
        return 1.0

    assert LatencyTable(FakeTarget(clock, cost), cache=None).multiple() == 1
