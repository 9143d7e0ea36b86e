"""Options that say what to reach, and what to judge by.

Nothing here imports PyTorch: help is quick.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from cyclopts import Parameter, Token, validators

from ..errors import ConvswapError
from ..inputs.names import is_function
from ..plans import Budget, Drop, Goal, Plan
from .options import Timing

_JUDGES = "images to judge by: labelled, or closeness to the original"


def _of_a_file(kind: object, name: str | None) -> None:
    if name is not None and not is_function(name):
        raise ValueError(f"takes file.py:function, not {name!r}")


def _share(kind: object, tokens: Sequence[Token]) -> float:
    """A budget as it is meant: the fraction that is kept, not percent."""
    text = tokens[0].value
    try:
        share = float(text)
    except ValueError:
        share = math.inf
    if share > 1:
        raise ValueError(f"takes the fraction to keep (0.5 is half), not {text!r}")
    return share


_Share = Annotated[float | None, Parameter(converter=_share, n_tokens=1)]
Judge = Annotated[
    str | None,
    Parameter(
        validator=_of_a_file,
        metavar="file.py:function",
        help="in place of --val: your own `function(network)`; the more it returns the better",
    ),
]
Judges = Annotated[str | None, Parameter(name="--val", metavar="SRC", help=_JUDGES)]


@Parameter(name="*", group="Goal")
@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """Fractions to keep; of time, where it is measured."""

    WAYS: ClassVar = ("--macs 0.5", "--params 0.5", "--bytes 0.5", "--latency 0.5")

    macs: _Share = None
    """fraction of the multiply-adds to keep, 0..1"""
    params: _Share = None
    """fraction of the parameters to keep, 0..1"""
    bytes: _Share = None
    """fraction of the bytes of all weights to keep, 0..1"""
    latency: _Share = None
    """fraction of the time on --target to keep, 0..1; measured"""
    timing: Timing = Timing()

    @property
    def budget(self) -> Budget:
        """What is given of them, maybe nothing.

        Raises:
            PlanError: one is out of range.
        """
        names = ("macs", "params", "bytes", "latency")
        return Budget(**{name: getattr(self, name) for name in names})

    @property
    def goal(self) -> Goal:
        """The budget these options spell.

        Raises:
            ConvswapError: none is given, or one is out of range.
        """
        budget = self.budget
        if budget == Budget():
            raise ConvswapError(
                "no budget given",
                do=f"say {', '.join(self.WAYS[:-1])} or {self.WAYS[-1]}",
            )
        return budget


@dataclass(frozen=True, kw_only=True)
class GoalOptions(BudgetOptions):
    """One of three: fractions to keep, the most quality to lose, a plan."""

    WAYS: ClassVar = (*BudgetOptions.WAYS, "--max-drop 1.0 --val SRC", "--plan FILE")

    max_drop: Annotated[
        float | None, Parameter(validator=validators.Number(gte=0, lt=math.inf))
    ] = None
    """in place of a budget: most points to lose on --val, or of what --judge returns"""
    val: Judges = None
    judge: Judge = None
    plan: Path | None = None
    """a plan file, in place of a budget"""

    @property
    def goal(self) -> Goal:
        """The one goal these options spell.

        Raises:
            ConvswapError, PlanError: none or more than one is given, or one cannot be.
        """
        given = [judge for judge in (self.val, self.judge) if judge is not None]
        if self.max_drop is None and given:
            raise ConvswapError("--val and --judge are what --max-drop is judged by", do="add that")
        if self.max_drop is not None and len(given) != 1:
            raise ConvswapError(
                "--max-drop is judged by images or a function", do="add one of --val and --judge"
            )
        if (self.budget != Budget()) + (self.max_drop is not None) + (self.plan is not None) > 1:
            raise ConvswapError(
                "give one of a budget (--macs, --params, --bytes, --latency), --max-drop and --plan"
            )
        if self.plan is not None:
            return Plan.load(self.plan)
        return super().goal if self.max_drop is None else Drop(self.max_drop, *given)
