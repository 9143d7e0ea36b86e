"""convswap recipes: see what recipes there are, take one, check one."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.syntax import Syntax

from .. import recipe, report
from ..files import check_new, new_file
from . import options as o

app = typer.Typer(help="List, show, copy and check recipes.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="RECIPE", help="a shipped name, or a file")]


@app.command("list", epilog="Example: `convswap recipes list`")
def list_() -> None:
    """Names of the recipes that come with convswap, and what each does."""
    for name, path in recipe.shipped().items():
        first = path.read_text().splitlines()[0].removeprefix("#").strip()
        report.out.print(f"{name:<18}{first}", soft_wrap=True)


@app.command(epilog="Example: `convswap recipes show digits`")
def show(name: Name) -> None:
    """Print a recipe."""
    text = recipe.find(name).read_text()
    report.out.print(Syntax(text, "yaml") if report.out.is_terminal else text, soft_wrap=True)


@app.command(epilog="Example: `convswap recipes copy digits mine.yaml`")
def copy(
    name: Name, to: Annotated[str, typer.Argument(metavar="FILE")], force: o.Force = False
) -> None:
    """Copy a recipe, to change it. Its relative paths then count from the copy's folder."""
    text = recipe.find(name).read_text()
    check_new(to, force)
    with new_file(to) as temporary:
        temporary.write_text(text)
    report.wrote(to)


@app.command(epilog="Example: `convswap recipes check mine.yaml`")
def check(
    name: Name,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
) -> None:
    """Check a recipe; all problems are reported together."""
    recipe.load(recipe.find(name), set_ or [])
    report.out.print(f"{name} is a valid recipe")
