"""convswap recipes: see what recipes there are, take one, check one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.syntax import Syntax

from ..recipe import recipe
from ..support.files import check_new, new_file
from . import options as o
from . import report

app = typer.Typer(help="List, show, copy and check recipes.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="RECIPE", help="a shipped name, or a file")]


@app.command("list", epilog="Example: `convswap recipes list`")
def list_() -> None:
    """Names of the recipes that come with convswap, and what each does."""
    for name, path in recipe.shipped().items():
        first = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
        report.out.print(f"{name:<18}{first}", soft_wrap=True)


@app.command(epilog="Example: `convswap recipes show digits`")
def show(name: Name) -> None:
    """Print a recipe."""
    text = recipe.find(name).read_text(encoding="utf-8")
    report.out.print(Syntax(text, "yaml") if report.out.is_terminal else text, soft_wrap=True)


@app.command(epilog="Example: `convswap recipes copy digits mine.yaml`")
def copy(
    name: Name, to: Annotated[str, typer.Argument(metavar="FILE")], force: o.Force = False
) -> None:
    """Copy a recipe, to change it, with the weights that lie beside it."""
    source = recipe.find(name)
    weights = recipe.load(source).model.weights
    copies = {source: check_new(to, force)}
    if weights and Path(weights).parent == source.parent:
        copies[Path(weights)] = check_new(Path(to).with_name(Path(weights).name), force)
    for original, copied in copies.items():
        with new_file(copied) as temporary:
            temporary.write_bytes(original.read_bytes())
        report.wrote(copied)


@app.command(epilog="Example: `convswap recipes check mine.yaml`")
def check(
    name: Name,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change an entry")
    ] = None,
) -> None:
    """Check a recipe; all problems are reported together."""
    recipe.load(recipe.find(name), set_ or [])
    report.out.print(f"{name} is a valid recipe")
