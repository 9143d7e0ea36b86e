"""Time whole networks beside the one they were made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ..errors import TargetError
from ..network.replace import blank
from ..plans import Latency, Plan
from ..runtimes import Runner, Target, running
from ..timing import LatencyTable, Timing
from ..timing.turns import fastest, sensible, take_turns, timed_input

if TYPE_CHECKING:
    from .surveying import Survey

SECONDS = 3.0  # at most, to time one network in one memory layout
ROUNDS = 10  # at least


class Stopwatch:
    """Times whole networks beside the original on a target.

    Args:
        batch: samples per forward pass.

    Raises:
        TargetError: the network takes more than one tensor.
    """

    def __init__(self, target: Target, survey: Survey, batch: int):
        self._target, self._survey, self._batch = target, survey, batch
        self._x = timed_input(survey.seen.example, batch)
        self._dense = self._runners(survey.model, "dense")

    def dense(self) -> Timing:
        """The time of the original."""
        return self._measure(self._dense)["dense"]

    def timed(self, plan: Plan, table: LatencyTable, whole: float, kept: float) -> Plan:
        """The plan with the time its network takes, and what the layers had promised.

        Args:
            whole: milliseconds of the original.
            kept: the part of what layers save by themselves that a network is said to save.
        """
        sites = {site.path: site for site in self._survey.sites}
        choices = tuple(
            choice.model_copy(update={
                "ms": table.ms(sites[choice.site], choice.form, choice.rank),
                "ms_dense": table.ms(sites[choice.site]),
            })
            for choice in plan.choices
        )  # fmt: skip
        saved = kept * sum(choice.ms_dense - choice.ms for choice in choices)
        small = self._runners(blank(self._survey.model, plan), "converted")
        taken = self._measure(self._dense | small)
        target = self._target
        latency = Latency(
            target=target.name, threads=target.threads, device=target.device, dtype=target.dtype,
            batch=self._batch, ms_dense=taken["dense"].ms, ms=taken["converted"].ms,
            ms_predicted=(1 - saved / whole) * taken["dense"].ms, layout=taken["converted"].layout,
        )  # fmt: skip
        return plan.model_copy(update={"choices": choices, "latency": latency})

    def _runners(self, network: nn.Module, name: str) -> dict[tuple[str, str], Runner]:
        with running(self._target, f"the {name} network"):
            variants = self._target.variants(network, self._x)
        return {(name, layout): runner for layout, runner in variants.items()}

    def _measure(self, runners: dict[tuple[str, str], Runner]) -> dict[str, Timing]:
        with running(self._target, "the networks in turn"):
            found = fastest(take_turns(runners, SECONDS * len(runners), rounds=ROUNDS))
        for name, timing in found.items():
            if not sensible(timing.ms):
                what = f"a time of {timing.ms} ms for the {name} network"
                raise TargetError(f"target {self._target.name} has {what}")
        return found
