"""Time whole networks beside the one they were made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ..errors import TargetError
from ..network.replace import blank
from ..plans import Budget, Latency, Plan
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

    Attributes:
        dense: time of the original.
        whole: milliseconds of a network in which nothing is replaced: of the original, or, where
            batch norms are folded, of it after that.

    Raises:
        TargetError: the network takes more than one tensor.
    """

    def __init__(self, target: Target, survey: Survey, batch: int):
        self._target, self._survey, self._batch = target, survey, batch
        self._x = timed_input(survey.seen.example, batch)
        self._dense = self._runners(survey.model, "dense")
        runners = dict(self._dense)
        if survey.seen.norms:
            nothing = survey.plan_of([], Budget())
            runners |= self._runners(blank(survey.model, nothing, survey.seen.norms), "folded")
        taken = self._measure(runners)
        self.dense = taken["dense"]
        self.whole = taken.get("folded", self.dense).ms

    def timed(self, plan: Plan, table: LatencyTable, kept: float) -> Plan:
        """The plan with the time its network takes, and what the layers had promised.

        Args:
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
        network = blank(self._survey.model, plan, self._survey.seen.norms)
        small = self._runners(network, "converted")
        taken = self._measure(self._dense | small)
        target = self._target
        latency = Latency(
            target=target.name, threads=target.threads, device=target.device, dtype=target.dtype,
            batch=self._batch, ms_dense=taken["dense"].ms, ms=taken["converted"].ms,
            ms_predicted=max(self.whole - saved, 0) / self.dense.ms * taken["dense"].ms,
            layout=taken["converted"].layout,
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
