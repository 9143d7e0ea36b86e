"""A clock that stands still but for what is run, and a target whose costs are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
from torch import Tensor, nn

from convswap.runtimes import Runner, Target


class Clock:
    """Stands in for the clock of `convswap.timing.turns`, or of another module."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: str = "convswap.timing.turns.time"):
        self.now = 0.0
        fake = SimpleNamespace(perf_counter=lambda: self.now)
        monkeypatch.setattr(module, fake)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class FakeTarget(Target):
    """Takes as many seconds for a module as `cost(module, layout)` says; runs nothing."""

    name, threads, device, dtype = "fake", 1, "cpu", "float32"

    def __init__(
        self,
        clock: Clock,
        cost: Callable[[nn.Module, str], float],
        layouts: Sequence[str] = ("",),
        version: str = "1",
    ):
        self.clock, self.cost, self.layouts, self.version = clock, cost, layouts, version
        self.seen: list[tuple[nn.Module, Tensor]] = []

    def variants(self, module: nn.Module, x: Tensor) -> dict[str, Runner]:
        self.seen.append((module, x))
        costs = {layout: self.cost(module, layout) for layout in self.layouts}
        return {
            layout: lambda cost=cost: self.clock.advance(cost) for layout, cost in costs.items()
        }

    def fingerprint(self) -> dict[str, str]:
        return {"target": self.name, "version": self.version}
