"""What is wrong with a command line, as far as that can be told before PyTorch is imported, which
takes seconds: a mistake is told at once."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ..artifact import DESCRIPTION
from ..errors import ConvswapError, ModelError
from ..inputs.names import check_artifact, check_judge, check_model, check_source, is_library
from ..plans import Drop, Goal
from ..support.files import check_new
from . import options as o


def leads() -> bool:
    """Whether this process writes and speaks for all that `torchrun` started."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK") == "0"


def check_output(folder: str, force: bool) -> None:
    """Raise `ConvswapError` unless an artifact may be written to a folder, where this process is to
    write it."""
    if leads():
        check_new(folder, force, [DESCRIPTION])


def check(
    model: str | None = None,
    network: o.Network = o.Network(),
    *,
    artifact: str | None = None,
    against: str | None = None,
    sources: Sequence[str | None] = (),
    goal: Goal | None = None,
) -> None:
    """Raise `ConvswapError` unless there is all that a command names: networks, weights, images,
    and what a goal is judged by. It is called last, for then it imports what takes seconds."""
    for name in filter(None, (model, against)):
        check_model(name)
    if network.weights is not None and not Path(network.weights).exists():
        raise ModelError(f"no such weights file: {network.weights}")
    if artifact is not None:
        check_artifact(artifact)
    for source in filter(None, sources):
        check_source(source)
    if isinstance(goal, Drop):
        check_judge(goal.judge)
    if "torch" not in sys.modules:
        _import("timm" if model and is_library(model) else "torch")


def _import(library: str) -> None:
    """Import a library without collecting garbage, then or later, among the half a million objects
    that stay until the end: a quarter of the time that this takes, and some of all that follows."""
    gc.disable()
    try:
        import_module(library)
    finally:
        gc.enable()
    gc.freeze()


def judges(judge: str | None, val: str | None, data: str) -> str:
    """What to judge by: a function, the images for it, else those that layers are fitted to."""
    if judge and val:
        raise ConvswapError("give one of --judge and --val")
    check_judge(by := judge or val or data)
    return by
