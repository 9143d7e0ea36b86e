"""convswap run: the whole job from one recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import RecipeError
from ..inputs.names import check_source
from ..recipe import recipe
from ..recipe.mark import SIGNS, unfinished
from ..support.files import check_new, user_cache
from . import console, early
from . import options as o

EXAMPLE = "convswap run digits"
OutFolder = Annotated[str | None, Parameter(help="folder to write; default: RECIPE-out")]
Model = Annotated[str | None, Parameter(help="file.py:factory, for a network of your own code")]
Weights = Annotated[str | None, Parameter(help="weights file, in place of the recipe's")]


def run(
    name: o.Recipe,
    /,
    *,
    settings: o.Settings = (),
    out: OutFolder = None,
    model: Model = None,
    weights: Weights = None,
    machine: o.Machine = o.Machine(),
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Plan, convert, distil and measure as a recipe says; one table, and a page to look at."""
    path = recipe.find(name)
    todo = recipe.load(path, settings)
    folder = Path(out or f"{path.stem}-out")
    check_new(folder, force or unfinished(todo, folder), SIGNS)
    if not (model or todo.model.name):
        raise RecipeError("the recipe names no model", do="add --model file.py:factory")
    _check_sources(todo)
    early.check(model or todo.model.name)
    from ..recipe import job
    from . import opening, tables

    dense = opening.open_named(
        model or todo.model.name, weights=weights or todo.model.weights,
        random_weights=todo.model.random_weights, seed=todo.seed, kwargs=todo.model.kwargs,
        machine=machine, averaged=todo.model.averaged, fold=todo.model.reparameterize,
    )  # fmt: skip
    with console.progress(machine.quiet) as progress:
        rows = job.run(
            todo, dense, folder, command=console.command(), cache=user_cache("surveys"),
            progress=progress, note=console.note,
            heard=() if machine.quiet else (console.judgement,),
        )  # fmt: skip
    console.answer(as_json, rows, *tables.run_tables(rows, todo.target))
    made = ["plan.json", "report.json", *list(rows)[1:]]
    console.wrote(f"{folder}/ ({', '.join(made)})")
    console.wrote(folder / "report.html")


def _check_sources(todo: recipe.Recipe) -> None:
    """Raise `DataError` unless the images are there that a recipe names."""
    for key in ("calibration", "train", "test"):
        if source := getattr(todo.data, key):
            check_source(source, do=f"say --set data.{key}=SRC")
