"""convswap run: the whole job from one recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import RecipeError
from ..recipe import job, recipe
from ..support.files import check_new
from . import opening, report
from . import options as o

EXAMPLE = "convswap run digits"


def run(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="a shipped name, or a file")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="change an entry: budget.macs=0.3"),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", help="folder to write; default: RECIPE-out")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="file.py:factory, for a network of your own code")
    ] = None,
    weights: o.Weights = None,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    force: o.Force = False,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Plan, convert, distil and measure as a recipe says, and print one table."""
    path = recipe.find(name)
    todo = recipe.load(path, set_ or [])
    folder = check_new(out or f"{path.stem}-out", force, folder=True)
    if not (model or todo.model.name):
        raise RecipeError("the recipe names no model", do="add --model file.py:factory")
    dense = opening.open_network(
        model or todo.model.name,
        weights=weights or todo.model.weights,
        random_weights=todo.model.random_weights,
        seed=todo.seed,
        kwargs=todo.model.kwargs,
        device=device,
        threads=threads,
    )
    said = [",".join(map(str, v)) if v else None
            for v in (todo.data.input_size, todo.data.mean, todo.data.std)]  # fmt: skip
    opening.settle_preprocess(dense, todo.data.calibration, *said)
    fitting = opening.within_memory(dense, todo.data.images)
    data = todo.data.model_copy(update={"images": fitting})
    todo = todo.model_copy(update={"data": data})
    with report.progress(quiet) as progress:
        rows = job.run(todo, dense, Path(folder), progress=progress)
    if as_json:
        print(json.dumps(rows))
    else:
        report.out.print(report.comparison_table(rows))
        report.out.print(f"(time: target {todo.target.name}, batch {todo.target.batch})")
    made = ["plan.json", "report.json", *list(rows)[1:]]
    report.wrote(f"{folder}/ ({', '.join(made)})")
