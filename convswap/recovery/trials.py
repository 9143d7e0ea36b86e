"""What a few steps tell before a run begins: how fast it may go, and how long it will take.
They are undone."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from ..network.calls import Batch
from ..network.state import set_state_, state_of
from ..support import ranks
from .judging import Judge
from .passes import steps
from .rates import WARM
from .training import Training, fresh

STEPS = WARM  # the warm-up of a short run
THROWN = 1.5  # times as far from the original as at the start is too far for a short run
MADE_UP = 100  # steps that make up for once the start's distance more
NEW = 16  # passes: what a step gains on images seen more often does not carry over to others
SLOWER = 2  # times, for the next try
TRIES = 4


@dataclass(frozen=True)
class Trials:
    """Of a student and its task, on the batches a run begins with.

    Attributes:
        read: makes a batch what the networks take.
    """

    task: nn.Module
    student: nn.Module
    batches: Sequence
    read: Callable[[object], Batch]
    seed: int

    def rate(self, lr: float, steps: int, distance: Judge) -> float:
        """A learning rate that does not throw the student further back than so many steps can make
        up for: at most `lr`, and a sixteenth of it at least."""
        steps = min(steps, NEW * len(self.batches))
        for _ in range(TRIES):
            start, reached, _ = self._tried(lr, distance)
            if ranks.agreed(reached <= (THROWN + steps / MADE_UP) * start):
                break
            lr /= SLOWER
        return lr

    def steps_within(self, seconds: float, lr: float, judge: Judge, judgements: int) -> int:
        """How many steps fit into so many seconds, beside so many judgements of two networks, what
        it takes to find that out, and about as much again to try the rate."""
        began = time.perf_counter()
        judge(self.student)
        judging = time.perf_counter() - began
        *_, step = self._tried(lr, lambda network: 0.0)
        trying = time.perf_counter() - began
        left = seconds - 2 * trying - 2 * judgements * judging
        return ranks.agreed(max(1, int(left / step)))

    def _tried(self, lr: float, judge: Judge) -> tuple[float, float, float]:
        """The judge's verdicts before and after a few steps, and how many seconds one takes."""
        before = copy.deepcopy(state_of(self.student))
        trial = Training(self.task, self.student, judge, lr, 4 * STEPS)
        began = time.perf_counter()
        for step, batch in steps(self.batches, self.seed, 0, STEPS):
            if not trial.learn(step, self.read(batch)):
                break
        seconds = (time.perf_counter() - began) / max(trial.step, 1)
        reached = judge(self.student) if trial.step == STEPS else math.inf
        set_state_(self.student, before)
        fresh(self.student)
        return trial.start, reached, seconds
