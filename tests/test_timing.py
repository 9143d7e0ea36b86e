"""Timing by a clock that only the networks move."""

from __future__ import annotations

from unittest.mock import ANY

import pytest
import torch
from helpers import tiny
from stopwatch import Clock, FakeTarget

from convswap import measure
from convswap.errors import TargetError
from convswap.timing.turns import Timing, fastest, take_turns


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_passes_take_turns_and_medians_are_in_milliseconds(clock):
    seen = []

    def runner(name, seconds):
        return lambda: (seen.append(name), clock.advance(seconds))

    times = take_turns({"a": runner("a", 0.002), "b": runner("b", 0.5)}, seconds=60)
    rounds = [seen[i : i + 2] for i in range(0, len(seen), 2)]
    assert len(rounds) == 5  # certain at once: the least number
    assert all({*each} == {"a", "b"} for each in rounds)
    assert times["a"].ms == pytest.approx(2)
    assert times["b"].ms == pytest.approx(500)
    assert times["a"].spread == pytest.approx(0)


def test_a_system_that_interrupts_at_the_pace_of_a_round_slows_all_alike(clock):
    def runner():
        before = clock.now
        clock.advance(1.0)
        if clock.now // 3 > before // 3:  # its slice of time is over
            clock.advance(30.0)

    times = take_turns(dict.fromkeys("abc", runner), seconds=0, rounds=300)
    assert {round(timing.ms) for timing in times.values()} == {1000}


def test_spread_is_the_interquartile_range_over_the_median(clock):
    costs = iter([1.0, 2.0, 3.0, 4.0, 500.0])
    timing = take_turns({"a": lambda: clock.advance(next(costs))}, seconds=0)["a"]
    assert timing == Timing(pytest.approx(3000), pytest.approx(2 / 3), 5, p90=ANY, p99=ANY)


def test_slow_passes_are_told(clock):
    costs = iter([0.001] * 85 + [0.003] * 10 + [0.3] * 5)
    timing = take_turns({"a": lambda: clock.advance(next(costs))}, seconds=0, rounds=100)["a"]
    assert (timing.ms, timing.p90) == (pytest.approx(1), pytest.approx(3))
    assert timing.p99 == pytest.approx(300)


def test_noise_is_measured_until_the_median_is_certain(clock, monkeypatch):
    monkeypatch.setattr("convswap.timing.turns.PRECISION", 0.02)
    random = torch.Generator().manual_seed(0)
    noisy = lambda: clock.advance(1 + 0.1 * torch.randn(1, generator=random).item())  # noqa: E731
    timing = take_turns({"a": noisy}, seconds=1e9)["a"]
    assert 10 < timing.rounds < 200
    assert timing.error <= 0.02
    assert timing.ms == pytest.approx(1000, rel=0.06)


def test_noise_is_measured_no_longer_than_the_time_given(clock):
    costs = iter([1.0, 9.0] * 1000)
    timing = take_turns({"a": lambda: clock.advance(next(costs))}, seconds=60)["a"]
    assert timing.error > 0.02
    assert timing.rounds == 12


@pytest.mark.parametrize("rounds", [5, 7])
def test_there_are_enough_rounds_however_little_time_is_given(rounds, clock):
    runners = {"a": lambda: clock.advance(1), "b": lambda: clock.advance(1)}
    times = take_turns(runners, seconds=0, rounds=rounds)
    assert [timing.rounds for timing in times.values()] == [rounds, rounds]


def test_the_faster_layout_counts():
    times = {("a", "x"): Timing(3, 0, 5), ("a", "y"): Timing(2, 0, 5), ("b", "x"): Timing(9, 0, 5)}
    assert fastest(times) == {"a": Timing(2, 0, 5, "y"), "b": Timing(9, 0, 5, "x")}


def test_networks_are_measured_on_the_target_given(clock):
    target = FakeTarget(clock, lambda module, layout: 2.0 if layout == "slow" else 1.0,
                        layouts=("slow", "fast"))  # fmt: skip
    model, size = tiny("residual")
    times = measure({"one": model, "two": model}, size, batch=3, target=target)
    assert {name: (t.ms, t.layout) for name, t in times.items()} == {
        "one": (1000, "fast"), "two": (1000, "fast"),
    }  # fmt: skip
    assert {x.shape for _, x in target.seen} == {(3, *size)}


def test_the_default_is_pytorch_eager_in_the_type_of_the_networks():
    model, size = tiny("residual")
    model.to(torch.bfloat16).train()
    times = measure({"a": model}, size, seconds=0)
    assert times["a"].ms > 0
    assert times["a"].layout in ("contiguous", "channels_last")
    assert model.training


def test_a_network_that_cannot_run_is_named():
    model, _ = tiny("residual")
    with pytest.raises(TargetError, match="target eager cannot run small"):
        measure({"small": model}, (5, 8, 8))
