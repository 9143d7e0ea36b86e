"""How fast networks are, measured fairly: interleaved in one process, medians with spread."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor, nn

from ..errors import TargetError
from ..network.calls import Batch, example_of
from ..plans import MOST_MS
from ..record import record_of
from ..runtimes import Runner, Target, running, target_of
from ..support.progress import Progress, silent

PRECISION = 0.02  # relative standard error of a median at which measuring stops
ROUNDS = 5  # at least
BUSY = 0.3  # of a time is the most that the times of one network may lie apart

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Timing:
    """Time of one forward pass.

    Attributes:
        ms: median, in milliseconds.
        spread: interquartile range over median.
        rounds: how many passes were timed.
        layout: the memory layout it is fastest in; empty if the target has but one.
        p90, p99: what nine in ten passes, and 99 in a hundred, take at most, in milliseconds.
    """

    ms: float
    spread: float
    rounds: int
    layout: str = ""
    p90: float = math.nan
    p99: float = math.nan

    @property
    def error(self) -> float:
        """Standard error of the median over the median, were the passes independent."""
        return 1.2533 * self.spread / 1.349 / self.rounds**0.5  # normal: IQR is 1.349 deviations


def measure(
    models: Mapping[str, nn.Module],
    input_size: Sequence[int] | object,
    *,
    batch: int = 1,
    seconds: float = 2.0,
    target: Target | None = None,
    progress: Progress = silent,
) -> dict[str, Timing]:
    """Time of one forward pass of each network, taking turns, each in its faster layout.

    Args:
        input_size: `(channels, height, width)` of an image, or a batch of whatever the networks
            take.
        batch: samples per forward pass.
        seconds: at most, per network; it takes less if the medians are certain to 2 %, and
            more if that is too short for five rounds.
        target: what runs them; default: PyTorch eager, where and in what type the first one is.

    Raises:
        ConvswapError: the target cannot run a network.
    """
    first = next(iter(models.values()))
    target = target or target_of(first)
    x = input_for(models, input_size, batch)
    runners: dict[tuple[str, str], Runner] = {}
    for index, (name, model) in enumerate(models.items()):
        with running(target, name):
            runners |= {(name, layout): run for layout, run in target.variants(model, x).items()}
        progress("prepare", index + 1, len(models))
    progress("time", 0, 1)
    with running(target, "the networks in turn"):
        found = fastest(take_turns(runners, seconds * len(models)))
    progress("time", 1, 1)
    return found


def input_for(
    models: Mapping[str, nn.Module], input_size: Sequence[int] | object, batch: int
) -> Tensor:
    """What all of these networks are timed on; a planned one knows whether they take whole numbers.

    Raises:
        TargetError: they take more than one tensor.
    """
    known = [model for model in models.values() if record_of(model).plans] or [*models.values()]
    return timed_input(example_of(known[0], input_size), batch)


def timed_input(example: Batch, batch: int) -> Tensor:
    """What networks are timed on: an example, so many times over.

    Raises:
        TargetError: they take more than one tensor.
    """
    tensors = example.tensors
    if len(tensors) != 1:
        raise TargetError(f"only networks of one input can be timed; this has {len(tensors)}")
    return tensors[0].repeat(batch, *[1] * (tensors[0].dim() - 1))


def take_turns(
    runners: Mapping[Key, Runner], seconds: float, *, rounds: int = ROUNDS
) -> dict[Key, Timing]:
    """Run every runner once per round, for at least `rounds` rounds, until the standard error
    of every median is below 2 % of it, or `seconds` have passed for all of them together.

    The order is another in every round: where a busy system gives out slices of time that a round
    just fits into, it would be the same one each time that waits for the next (16 times as slow as
    it is, once).
    """
    order, turns = [*runners], random.Random(0)
    taken: dict[Key, list[float]] = {key: [] for key in runners}
    end = time.perf_counter() + seconds

    def uncertain() -> bool:
        return any(_timing(times).error > PRECISION for times in taken.values())

    done = 0
    while done < rounds or (uncertain() and time.perf_counter() < end):
        turns.shuffle(order)
        for key in order:
            start = time.perf_counter()
            runners[key]()
            taken[key].append(time.perf_counter() - start)
        done += 1
    return {key: _timing(times) for key, times in taken.items()}


def fastest(timings: Mapping[tuple[Key, str], Timing]) -> dict[Key, Timing]:
    """(key, layout) -> timing, reduced to the faster layout of each key."""
    best: dict[Key, Timing] = {}
    for (key, layout), timing in timings.items():
        if key not in best or timing.ms < best[key].ms:
            best[key] = replace(timing, layout=layout)
    return best


def sensible(ms: object) -> bool:
    """Whether something can be a time."""
    return isinstance(ms, (int, float)) and 0 < ms <= MOST_MS


def _timing(times: Sequence[float]) -> Timing:
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    hundredths = statistics.quantiles(times, n=100, method="inclusive")
    return Timing(
        1e3 * median, (high - low) / median if median else 0.0, len(times),
        p90=1e3 * hundredths[89], p99=1e3 * hundredths[98],
    )  # fmt: skip
