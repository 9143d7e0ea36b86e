"""A student on its way: what changes from step to step, and the best of it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..network.calls import Batch
from ..network.copies import deep_copy, in_eval_mode
from ..network.state import set_state_, state_of
from ..support import ranks
from ..support.randomness import seeded
from .judging import Judge, Judgement
from .losses import Errors
from .rates import optimizer_for, schedule_for

_HISTORY = TypeAdapter(Annotated[list[Judgement], Field(min_length=1)])
MOVING = get_ema_multi_avg_fn(0.98)  # average of the weights
EARLY = 0.25  # of all steps: who has gained nothing by then is told
CLIP = 1.0  # the largest norm of a step's gradients
NOISE = 0.5  # share of the largest gain that a later state may lack, where few images judge
GOES_ON = "the same command goes on from the checkpoint"


class Training:
    """Trains the student of a task, in eval mode throughout: batch norms keep their statistics,
    and outputs have the structure they have when the network is used.

    Args:
        task: gives the errors on a batch.
        steps: how many there will be.
        noise: share of the largest gain that a later state may lack and still be kept.
        further: tells further figures of a network, for the history.

    Attributes:
        step: how many were made.
        start: the judge's verdict before the first.
        best, least: the weights to keep so far, and the least verdict on any.
        history: of all judgements.
    """

    def __init__(
        self,
        task: nn.Module,
        student: nn.Module,
        judge: Judge,
        lr: float,
        steps: int,
        noise: float = NOISE,
        further: Callable[[nn.Module], dict[str, float]] = lambda network: {},
    ):
        self.task, self.student, self.judge = task, student, judge
        self.lr, self.steps, self.noise, self.further = lr, steps, noise, further
        self.start = self.least = judge(student)
        self.optimizer = optimizer_for(self.student, lr)
        self.schedule = schedule_for(self.optimizer, steps)
        self.average = in_eval_mode(deep_copy(student))
        self.step = 0
        self.best = copy.deepcopy(state_of(self.student))
        start = self.start
        self.history = [Judgement(0, steps, start, start, start, **further(student))]
        self._meter = _Meter()

    @property
    def gained(self) -> bool:
        """Whether any step came closer than the start."""
        return self.least < self.start

    @property
    def in_vain(self) -> bool:
        """Whether the last judgement was the first of which one would expect that it is better
        than the start, and none was, and there are steps left to be spared."""
        if self.gained or len(self.history) < 2:
            return False
        before, last = (judgement.step for judgement in self.history[-2:])
        return before < self.steps * EARLY <= last < self.steps

    def learn(self, step: int, batch: Batch) -> bool:
        """Make a step; False, and nothing is learned, where the loss is NaN or infinite. An empty
        batch teaches nothing."""
        if not len(batch) and not ranks.several():  # others would wait for its gradients
            self.step = step + 1
            return True
        began = time.perf_counter()
        self.schedule.step_update(step + 1)
        with ranks.company(GOES_ON), ranks.alone(self.task).room():
            errors = self.task(batch)
            self.optimizer.zero_grad()
            errors.loss.backward()
        # subtle: gradients, unlike losses, are the same in all processes
        norm = nn.utils.clip_grad_norm_(self.student.parameters(), CLIP)
        if not norm.isfinite():
            return False
        self.optimizer.step()
        self._average_()
        self.step = step + 1
        fresh(self.student)
        self._meter.add(errors, len(batch) * ranks.place()[1], time.perf_counter() - began)
        return True

    @torch.no_grad()
    def _average_(self) -> None:
        """Take what trains into its moving average; all else may be infinite, or whole numbers."""
        both = zip(self.average.parameters(), self.student.parameters(), strict=True)
        averages, weights = zip(*(pair for pair in both if pair[1].requires_grad), strict=True)
        MOVING(averages, weights, self.step)
        for mean, buffer in zip(self.average.buffers(), self.student.buffers(), strict=True):
            mean.copy_(buffer)

    def have_judged(self, seed: int) -> None:
        """Have the weights judged, and their moving average; keep the closer of them if it is
        closer than ever, or nearly so: few judges are noisy, and who has seen more knows more."""
        means, verdicts, kept = self._meter.means(), {}, self.history[-1].best
        networks = {"trained": self.student, "averaged": self.average}
        for name, network in networks.items():
            with seeded(seed):
                verdicts[name] = self.judge(fresh(network))
        name = min(verdicts, key=lambda name: (math.isnan(verdicts[name]), verdicts[name]))
        self.least = min(self.least, verdicts[name])
        most = self.start - self.least
        if verdicts[name] < self.start and self.start - verdicts[name] >= (1 - self.noise) * most:
            kept, self.best = verdicts[name], copy.deepcopy(state_of(networks[name]))
        lr = self.schedule._get_lr(self.step)[0]
        with seeded(seed):
            means |= self.further(networks[name])
        self.history.append(
            Judgement(step=self.step, steps=self.steps, best=kept, lr=lr, **verdicts, **means)
        )
        self._meter = _Meter()

    def state(self) -> dict[str, Any]:
        """All that a process needs to go on as this one would."""
        return {
            "lr": self.lr,
            "steps": self.steps,
            "step": self.step,
            "student": state_of(self.student),
            "average": state_of(self.average),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "least": self.least,
            "history": [asdict(judgement) for judgement in self.history],
        }

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Take over the `state` of another process; whatever is raised, it is damaged."""
        self.step, self.best, self.least = int(state["step"]), state["best"], float(state["least"])
        for weights in (self.best, state["student"]):
            set_state_(self.student, weights)
        set_state_(self.average, state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = _HISTORY.validate_python(state["history"])


def fresh(network: nn.Module) -> nn.Module:
    """The network in eval mode, without what it kept from weights it had before (levit does)."""
    network.train()
    return in_eval_mode(network)


class _Meter:
    """Sums since the last judgement."""

    def __init__(self):
        self.errors = torch.zeros(3, dtype=torch.float64)
        self.steps, self.images, self.learning = 0, 0, 0.0
        self.began = time.perf_counter()

    def add(self, errors: Errors, images: int, seconds: float) -> None:
        self.errors += torch.stack([*errors]).detach().double().cpu()
        self.steps, self.images = self.steps + 1, self.images + images
        self.learning += seconds

    def means(self) -> dict[str, float]:
        loss, output, within = (self.errors / max(self.steps, 1)).tolist()
        seconds = time.perf_counter() - self.began
        return {
            "loss": loss,
            "output": output,
            "within": within,
            "images_per_second": self.images / seconds,
            "reading": 1 - self.learning / seconds,
        }
