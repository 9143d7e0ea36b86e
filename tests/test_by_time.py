"""Planning by time: the whole network is as fast as asked, whatever its layers had promised."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stopwatch import Clock, FakeTarget
from torch import Tensor, nn

from convswap import Budget, LatencyTable, Layers, Plan, convert, plan, survey
from convswap.errors import BudgetError, ConversionError, TargetError
from convswap.network.price import price
from convswap.network.replace import blank
from convswap.planning.by_time import meet_latency

SIZE = (3, 8, 8)
SITES = 4

Costs = Callable[[nn.Module], float]
"""Module -> seconds."""


class Row(nn.Module):
    """Convolutions in a row, most of them alike."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(8 if i else 3, 8, 3, padding=1) for i in range(SITES))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


class NormedRow(Row):
    """The same with batch norms."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(SITES))

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.relu(norm(layer(x)))
        return x


@pytest.fixture(scope="module")
def surveyed():
    torch.manual_seed(0)
    return survey(Row(), fit="weight", input_size=SIZE)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def meet(clock, surveyed):
    """Plan on a target whose layers and whole networks cost what two functions say."""

    def meet(budget: Budget, alone: Costs, whole: Costs, seen=surveyed, **kwargs) -> Plan:
        def cost(module: nn.Module, layout: str) -> float:
            return (whole if isinstance(module, Row) else alone)(module)

        clock.now = 0.0  # so that times are rounded alike
        target = FakeTarget(clock, cost)
        return meet_latency(seen, budget, target, table=LatencyTable(target, cache=None), **kwargs)

    return meet


# --- what modules cost ----------------------------------------------------------------------


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def weights(module: nn.Module) -> float:
    """A second per weight."""
    return float(sum(conv.weight.numel() for conv in convolutions(module)))


DENSE = weights(Row())


def part(module: nn.Module) -> float:
    """The whole network saves 60 % of what its layers save."""
    return DENSE - 0.6 * (DENSE - weights(module))


def overhead(module: nn.Module) -> float:
    """Every call takes its time."""
    return weights(module) + 20 * len(convolutions(module))


def no_depthwise(module: nn.Module) -> float:
    """Depthwise convolutions are slow."""
    slow = any(conv.groups > 1 for conv in convolutions(module))
    return weights(module) + 10_000 * slow


def normed(module: nn.Module) -> float:
    """Batch norms take their time."""
    return weights(module) + 200 * sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())


def idle(*sites: int) -> Costs:
    """The whole network gains nothing from replacing some sites."""

    def cost(module: nn.Module) -> float:
        def saved(i: int) -> float:
            return weights(Row().layers[i]) - weights(module.layers[i])

        return DENSE - sum(saved(i) for i in range(SITES) if i not in sites)

    return cost


def ratio(made: Plan) -> float:
    return made.latency.ms / made.latency.ms_dense


# --- the budget is met ----------------------------------------------------------------------


@pytest.mark.parametrize(("whole", "share"), [
    (weights, 0.3), (weights, 0.75), (part, 0.65), (part, 0.95), (overhead, 0.65), (overhead, 0.9),
])  # fmt: skip
def test_the_whole_network_is_as_fast_as_asked(whole, share, meet, surveyed):
    made = meet(Budget(latency=share), weights, whole)
    network = blank(surveyed.model, made)
    assert made.latency.ms_dense == pytest.approx(1e3 * whole(surveyed.model))
    assert made.latency.ms == pytest.approx(1e3 * whole(network))
    assert 0.9 * share <= ratio(made) <= share
    assert made.latency.ms_predicted == pytest.approx(made.latency.ms, rel=0.05)


def test_folded_batch_norms_count(meet):
    torch.manual_seed(0)
    model, kept = NormedRow().eval(), {}
    for fold in (False, True):
        layers = Layers(fold_norms=fold)
        seen = survey(model, fit="weight", input_size=SIZE, layers=layers)
        made = meet(Budget(latency=0.6), weights, normed, seen=seen)
        network = blank(model, made, seen.seen.norms)
        assert made.fold_norms == fold
        assert made.latency.ms_dense == pytest.approx(1e3 * normed(model))
        assert made.latency.ms == pytest.approx(1e3 * normed(network))
        assert 0.54 <= ratio(made) <= 0.6
        assert made.latency.ms_predicted == pytest.approx(made.latency.ms, rel=0.05)
        kept[fold] = made.planned.macs
    assert kept[True] > 1.2 * kept[False]
    with pytest.raises(ConversionError, match="batch norms alone"):
        meet(Budget(latency=0.9), weights, normed, seen=seen)


def test_the_plan_says_where_its_times_count(meet):
    made = meet(Budget(latency=0.5), weights, weights, batch=4)
    latency = made.latency
    assert (latency.target, latency.threads, latency.device) == ("fake", 1, "cpu")
    assert (latency.dtype, latency.batch) == ("float32", 4)


def test_choices_say_what_their_layers_take(meet, surveyed):
    made = meet(Budget(latency=0.5), weights, weights)
    network = blank(surveyed.model, made)
    for choice in made.choices:
        assert choice.ms == pytest.approx(1e3 * weights(network.get_submodule(choice.site)))
        dense = surveyed.model.get_submodule(choice.site)
        assert choice.ms_dense == pytest.approx(1e3 * weights(dense))


def test_an_edited_plan_no_longer_says_times(meet, surveyed):
    made = meet(Budget(latency=0.5), weights, weights)
    again = price(made, surveyed.seen)
    assert again == made
    edited = made.model_copy(update={"choices": made.choices[1:]})
    edited = price(edited, surveyed.seen)
    assert edited.latency is None
    assert all(choice.ms is None for choice in edited.choices)


def test_where_all_promises_are_kept_the_choice_is_that_of_the_counts(meet, surveyed):
    """On a target that takes a second per weight, time is the number of weights."""
    made = meet(Budget(latency=0.5), weights, weights)
    counted = surveyed.plan(Budget(params=0.5))
    assert made.damage == pytest.approx(counted.damage, rel=0.1)


def test_a_looser_budget_does_no_more_damage(meet):
    damages = [meet(Budget(latency=s), weights, weights).damage for s in (0.3, 0.5, 0.8)]
    assert damages == sorted(damages, reverse=True)


def test_budgets_of_time_and_of_counts_are_met_together(meet):
    made = meet(Budget(latency=0.7, macs=0.4, params=0.5), weights, part)
    assert ratio(made) <= 0.7
    assert made.planned.macs <= 0.4 * made.dense.macs
    assert made.planned.params <= 0.5 * made.dense.params


def test_replacements_that_take_no_less_time_are_not_chosen(meet):
    slow = {"separable", "blueprint", "bottleneck"}
    usual = meet(Budget(latency=0.4), weights, weights)
    made = meet(Budget(latency=0.4), no_depthwise, no_depthwise)
    assert {choice.form for choice in usual.choices} & slow
    assert not {choice.form for choice in made.choices} & slow
    assert ratio(made) <= 0.4


def test_the_slowness_of_all_but_one_layer_leaves_that_one(meet, surveyed):
    def alone(module: nn.Module) -> float:
        return weights(module) if convolutions(module)[0].in_channels == 3 else 1.0

    made = meet(Budget(latency=0.95), alone, weights)
    assert [choice.site for choice in made.choices] == ["layers.0"]


def test_a_plan_that_meets_the_budget_is_kept_for_one_that_nearly_does(meet):
    """Whole networks come in a few speeds only, none of them near the budget."""

    def coarse(module: nn.Module) -> float:
        share = weights(module) / DENSE
        return DENSE * (1.0 if share > 0.6 else 0.51 if share > 0.45 else 0.3)

    made = meet(Budget(latency=0.5), weights, coarse)
    assert ratio(made) == pytest.approx(0.3)


def test_a_full_budget_keeps_every_layer(meet):
    with pytest.raises(ConversionError, match="does not get faster"):
        meet(Budget(latency=1.0), weights, weights)


def test_a_full_budget_on_a_noisy_machine_keeps_every_layer(meet):
    calls = []

    def noisy(module: nn.Module) -> float:
        calls.append(module)
        return DENSE + len(calls)

    with pytest.raises(ConversionError, match="does not get faster"):
        meet(Budget(latency=1.0), weights, noisy)


def blocks_of_four(module: nn.Module) -> float:
    """Channels are computed four at a time."""
    return sum(
        math.ceil(conv.out_channels / 4) * 4 * conv.weight[0].numel()
        for conv in convolutions(module)
    )


def test_ranks_are_multiples_of_what_the_target_computes_at_once(meet):
    made = meet(Budget(latency=0.7), blocks_of_four, blocks_of_four)
    ranks = [r for c in made.choices for r in ([c.rank] if isinstance(c.rank, int) else c.rank)]
    assert max(ranks) > 4
    assert all(rank <= 4 or rank % 4 == 0 for rank in ranks)


def test_a_network_that_is_faster_than_its_layers_promise_is_found(meet):
    """Layers by themselves promise 0.45 at the least; the network saves more than that."""

    def slow(module: nn.Module) -> float:
        return DENSE / 3 + weights(module)

    made = meet(Budget(latency=0.4), slow, weights)
    assert 0.36 <= ratio(made) <= 0.4


def test_counts_out_of_reach_of_what_is_faster_are_refused(meet):
    def alone(module: nn.Module) -> float:
        return weights(module) if convolutions(module)[0].in_channels == 3 else 1.0

    with pytest.raises(BudgetError, match=r"macs 0\.4 asked"):
        meet(Budget(latency=0.95, macs=0.4), alone, weights)


# --- layers are given back ------------------------------------------------------------------


def test_layers_the_network_gains_nothing_from_are_given_back(meet):
    """The stem promises least: it has three input channels."""
    made = meet(Budget(latency=0.4), weights, idle(0))
    assert ratio(made) <= 0.4
    assert {choice.site for choice in made.choices} == {f"layers.{i}" for i in range(1, SITES)}
    assert made.planned.macs < made.dense.macs
    assert made.damage == pytest.approx(sum(choice.damage for choice in made.choices))


def test_a_layer_that_another_budget_needs_is_not_given_back(meet):
    made = meet(Budget(latency=0.6, macs=0.3), weights, idle(0, 1))
    assert ratio(made) <= 0.6
    assert made.planned.macs <= 0.3 * made.dense.macs


def test_one_idle_layer_of_two_is_given_back(meet, surveyed):
    """Few as they are, each is tried."""
    two = ("layers.0", "layers.1")
    options = {path: row if path in two else [] for path, row in surveyed.options.items()}
    made = meet(Budget(latency=0.84), weights, idle(0), seen=replace(surveyed, options=options))
    assert [choice.site for choice in made.choices] == ["layers.1"]


# --- refusals -------------------------------------------------------------------------------


def test_where_no_layer_gets_faster_the_layers_are_named_with_how_close_they_came(meet):
    def alone(module: nn.Module) -> float:
        return 1.0 if len(convolutions(module)) == 1 else 1.25

    with pytest.raises(ConversionError) as caught:
        meet(Budget(latency=0.5), alone, weights)
    text = str(caught.value)
    assert caught.value.exit_code == 3
    assert text.startswith("no layer has a faster replacement on fake: ")
    for index in range(SITES):
        assert f"layers.{index}: " in text
    assert text.count("takes 1.25 of its time") == SITES
    assert "another target" in text


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_layers_that_are_faster_alone_do_not_make_a_network_faster(gain, meet):
    """The network takes as long as before, or longer with every layer replaced."""

    def whole(module: nn.Module) -> float:
        return DENSE + gain * (len(convolutions(module)) - SITES)

    with pytest.raises(ConversionError, match="does not get faster on fake") as caught:
        meet(Budget(latency=0.4), weights, whole)
    assert caught.value.exit_code == 3
    assert "layers.1: " in str(caught.value)


def test_a_budget_out_of_reach_of_the_layers_is_refused_with_the_least(meet):
    with pytest.raises(BudgetError, match=r"latency 0\.01 asked, 0\.\d+ is the least") as caught:
        meet(Budget(latency=0.01), weights, weights)
    assert caught.value.exit_code == 1


def test_a_budget_out_of_reach_of_the_network_is_refused_with_the_least(meet):
    """The layers promise 0.3 and more, the network saves 60 % of that."""
    with pytest.raises(BudgetError, match=r"latency 0\.3 asked, 0\.\d+ is the least") as caught:
        meet(Budget(latency=0.3), weights, part)
    least = float(str(caught.value).split("asked, ")[1].split()[0])
    assert ratio(meet(Budget(latency=least + 0.01), weights, part)) <= least + 0.01


@pytest.mark.parametrize("speeds", [(0.7, 0.7), (0.7, 0.9)])
def test_a_network_that_never_comes_near_the_budget_is_refused(speeds, meet):
    """It gets faster, but no faster than so, whatever is promised."""

    def whole(module: nn.Module) -> float:
        share = weights(module) / DENSE
        return DENSE * (1.0 if share > 0.9 else speeds[share < 0.5])

    with pytest.raises(BudgetError, match=r"latency 0\.6 asked, 0\.[67]\d* is the least"):
        meet(Budget(latency=0.6), weights, whole)


# --- targets that fail ----------------------------------------------------------------------


@pytest.mark.parametrize("how", [RuntimeError("no kernel"), -1.0, 0.0])
def test_a_candidate_that_cannot_be_timed_is_not_used(how, meet, surveyed):
    first = meet(Budget(latency=0.5), weights, weights)
    choice = first.choices[1]
    bad = blank(surveyed.model, first).get_submodule(choice.site)
    shapes = [conv.weight.shape for conv in convolutions(bad)]

    def alone(module: nn.Module) -> float:
        if [conv.weight.shape for conv in convolutions(module)] != shapes:
            return weights(module)
        if isinstance(how, Exception):
            raise how
        return how

    made = meet(Budget(latency=0.5), alone, weights)
    assert (choice.form, choice.rank) not in {(c.form, c.rank) for c in made.choices
                                              if c.site == choice.site}  # fmt: skip
    assert ratio(made) <= 0.5


def test_layers_that_promise_more_than_the_network_takes_are_no_error(meet):
    with pytest.raises(BudgetError, match=r"latency 0.001 asked.* is the least"):
        meet(Budget(latency=0.001), lambda module: 10 * weights(module), weights)


def test_a_form_that_cannot_run_is_not_used(meet):
    def alone(module: nn.Module) -> float:
        if any(conv.groups > 1 for conv in convolutions(module)):
            raise RuntimeError("depthwise convolutions are not implemented")
        return weights(module)

    made = meet(Budget(latency=0.5), alone, weights)
    assert not {choice.form for choice in made.choices} & {"separable", "blueprint", "bottleneck"}
    assert ratio(made) <= 0.5


@pytest.mark.parametrize("converted", [False, True])
def test_a_network_that_cannot_run_is_an_error_that_names_it(converted, meet):
    def whole(module: nn.Module) -> float:
        if converted == (len(convolutions(module)) > SITES):
            raise RuntimeError("no kernel")
        return weights(module)

    name = "converted" if converted else "dense"
    with pytest.raises(TargetError, match=f"fake cannot run the {name} network: no kernel"):
        meet(Budget(latency=0.5), weights, whole)


@pytest.mark.parametrize("ms", [0.0, -1.0])
@pytest.mark.parametrize("converted", [False, True])
def test_a_time_of_a_network_that_makes_no_sense_is_an_error(ms, converted, meet):
    def whole(module: nn.Module) -> float:
        return ms if converted == (len(convolutions(module)) > SITES) else weights(module)

    name = "converted" if converted else "dense"
    with pytest.raises(TargetError, match=f"fake has a time of .* ms for the {name} network"):
        meet(Budget(latency=0.5), weights, whole)


# --- the same, and nothing else -------------------------------------------------------------


def test_the_same_is_planned_again(meet):
    torch.manual_seed(1)
    first = meet(Budget(latency=0.7), weights, part)
    torch.manual_seed(2)
    assert meet(Budget(latency=0.7), weights, part) == first


@pytest.mark.parametrize("training", [False, True])
def test_the_network_and_the_random_state_stay_as_they_are(training, meet, surveyed):
    model = surveyed.model.train(training)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = torch.get_rng_state()
    try:
        meet(Budget(latency=0.7), weights, part)
        assert all(module.training == training for module in model.modules())
    finally:
        model.eval()
    torch.testing.assert_close(dict(model.state_dict()), state, atol=0, rtol=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_progress_ends(meet):
    seen = []
    meet(Budget(latency=0.7), weights, part, progress=lambda *report: seen.append(report))
    stages = {name: (done, total) for name, done, total in seen}
    assert stages.keys() == {"latency", "compose"}
    assert all(done == total for done, total in stages.values())


def test_a_blank_network_has_the_layers_of_the_plan_and_other_weights(surveyed):
    made = surveyed.plan(Budget(macs=0.5))
    network, again = blank(surveyed.model, made), blank(surveyed.model, made)
    assert sum(p.numel() for p in network.parameters()) == made.planned.params
    assert network(torch.ones(1, *SIZE)).isfinite().all()
    for one, other in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_plan_by_time_is_saved_loaded_and_converted(meet, surveyed, tmp_path: Path):
    made = meet(Budget(latency=0.7), weights, part)
    made.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == made
    small = convert(surveyed.model, loaded)
    assert part(small) / part(surveyed.model) == pytest.approx(ratio(made))
    assert loaded.latency is not None


# --- through the front door -----------------------------------------------------------------


def test_plan_takes_a_target(clock, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    target = FakeTarget(clock, lambda module, layout: weights(module))
    made = plan(
        Row(), budget=Budget(latency=0.5), fit="weight", input_size=SIZE, target=target, batch=2
    )
    assert ratio(made) <= 0.5
    assert {len(x) for _, x in target.seen} == {2}
    assert list((tmp_path / "convswap/latency").iterdir())
    assert made.budget == Budget(latency=0.5)


# --- a machine that does other things -------------------------------------------------------


@pytest.mark.parametrize(("slower", "notes"), [(1.1, 0), (1.5, 1)])
def test_a_busy_machine_is_said_before_the_long_part(slower, notes, clock, surveyed):
    class Busy(FakeTarget):
        """Every other pass takes longer."""

        def variants(self, module: nn.Module, x: Tensor) -> dict:
            turns = itertools.cycle([1.0, slower])
            return {"": lambda: clock.advance(weights(module) * next(turns))}

    said = []
    target = Busy(clock, lambda module, layout: weights(module))
    made = meet_latency(
        surveyed, Budget(latency=0.7), target, table=LatencyTable(target, cache=None),
        progress=lambda phase, done, total: said.append(phase),
    )  # fmt: skip
    assert len(made.notes) == notes
    assert ("the machine is busy: the same network's times vary by 40%" in said[:1]) is bool(notes)
    assert made.notes == tuple(said[:notes])
