"""What is wrong with a command line, as far as that can be told before PyTorch is imported, which
takes seconds: a mistake is told at once."""

from __future__ import annotations

from pathlib import Path

from ..artifact import DESCRIPTION
from ..errors import ConvswapError, ModelError
from ..inputs import names
from ..inputs.names import check_artifact, check_judge, check_source
from ..plans import Drop, Goal
from ..support.files import check_new, check_ours
from . import options as o

__all__ = ["check_artifact", "check_goal", "check_model", "check_output", "check_sources", "judges"]


def check_output(folder: str, force: bool) -> None:
    """Raise `ConvswapError` unless an artifact may be written to a folder."""
    check_ours(check_new(folder, force, folder=True), DESCRIPTION)


def check_model(name: str, network: o.Network = o.Network()) -> None:
    """Raise `ModelError` if there is no network of this name, or not the weights it is to have."""
    names.check_model(name)
    if network.weights is not None and not Path(network.weights).exists():
        raise ModelError(f"no such weights file: {network.weights}")


def check_sources(*sources: str | None) -> None:
    """Raise `DataError` unless there is what was named, where something was."""
    for source in sources:
        if source is not None:
            check_source(source)


def check_goal(goal: Goal) -> None:
    """Raise `ConvswapError` unless there is what a goal is judged by."""
    if isinstance(goal, Drop):
        check_judge(goal.judge)


def judges(judge: str | None, val: str | None, data: str) -> str:
    """What to judge by: a function, the images for it, else those that layers are fitted to."""
    if judge and val:
        raise ConvswapError("give one of --judge and --val")
    check_judge(by := judge or val or data)
    return by
