"""The command line: parse, call the library, print. No logic of its own."""

from __future__ import annotations

import sys

import typer

from ..errors import ConvswapError
from . import bench, convert, distill, evaluate, export, inspect, plan, recipes, run, sweep
from .report import note

app = typer.Typer(
    name="convswap",
    help="Make pretrained convolutional networks smaller and faster: convolutions are swapped "
    "for separable ones fitted to what each layer really sees.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for verb in (inspect, plan, convert, sweep, distill, evaluate, bench, export, run):
    name = verb.__name__.rpartition(".")[2]
    app.command(name, epilog=f"Example: `{verb.EXAMPLE}`")(getattr(verb, name))
app.add_typer(recipes.app, name="recipes")


def main() -> None:
    """The console script: expected failures are one line on stderr and an exit code."""
    try:
        app()
    except ConvswapError as error:
        note(f"error: {error}")
        sys.exit(error.exit_code)
