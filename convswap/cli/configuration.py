"""A command as a recipe, by which `convswap run` does the same again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import ConvswapError, problems
from ..plans import Budget
from ..recipe import recipe
from ..support.files import check_new
from . import console
from . import goal_options as g
from . import options as o


def writer(
    path: str | None,
    force: bool,
    model: str,
    wanted: g.GoalOptions,
    network: o.Network,
    images: o.Fitting,
    layers: o.Layers,
    output: o.Output,
    run: o.Run,
) -> Callable[[], None]:
    """What writes the recipe that asks for what a command's options ask for, if it is asked for:
    to be called once all has gone well.

    Raises:
        ConvswapError: no recipe can.
    """
    if path is None:
        return lambda: None
    path, goal = check_new(path, force), wanted.goal
    if not isinstance(goal, Budget) or images.data is None:
        raise ConvswapError("--save-config needs --data and a budget, not --plan or --max-drop")
    time = wanted.timing
    content = {
        "version": 1, "model": _model(model, network), "data": _data(images), "budget": goal,
        "target": {"name": time.target, "batch": time.batch, "threads": run.threads},
        "fit": images.settled(goal), "output": output, "layers": layers.allowed, "seed": run.seed,
    }  # fmt: skip
    try:
        made = recipe.Recipe.model_validate(content)
    except ValidationError as error:
        raise ConvswapError(f"--save-config: no recipe says this: {problems(error)}") from None

    return partial(_write, made, path, model)


def _write(made: recipe.Recipe, path: Path, model: str) -> None:
    recipe.dump(made, path)
    console.wrote(path)
    if made.model.name is None:  # a recipe runs no code on its own word
        console.note(f"to run it, name your code again: convswap run {path} --model {model}")


def _model(name: str, network: o.Network) -> dict[str, Any]:
    """Code of the user's own is named on the command line again: `--model file.py:factory`."""
    if ":" not in name:
        raise ConvswapError(f"--save-config: no recipe starts from a folder, as {name} is")
    return {
        "name": name if name.startswith(("timm:", "torchvision:")) else None,
        "kwargs": network.kwargs, "weights": network.weights,
        "random_weights": network.random_weights, "averaged": not network.no_ema,
        "reparameterize": network.reparameterize,
    }  # fmt: skip


def _data(images: o.Fitting) -> dict[str, Any]:
    return {
        "calibration": images.data, "images": images.images, "batch_size": images.batch_size,
        "input_size": images.input_size, "mean": images.mean, "std": images.std,
    }  # fmt: skip
