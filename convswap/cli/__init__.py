"""The command line: parse, call the library, print. No logic of its own.

A verb imports what it runs when it runs: help, versions and recipes come without PyTorch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from cyclopts import App, CycloptsError, Parameter, UnknownOptionError, UnusedCliTokensError

from .. import __version__
from ..errors import ConvswapError
from . import (
    bench,
    completion,
    console,
    convert,
    distill,
    evaluate,
    export,
    inspect,
    plan,
    push,
    recipes,
    report,
    run,
    sweep,
)
from .ending import ending

SHARED = ("plan", "convert", "distill")  # verbs that several processes do together


def _shown(default: object) -> str | None:
    """A default as help shows it: figures and names; that nothing is given goes without saying."""
    return None if default is None or default is False or default == () else str(default)


app = App(
    name="convswap",
    help="Make pretrained convolutional networks smaller and faster: convolutions are swapped "
    "for separable ones fitted to what each layer really sees.",
    version=__version__,
    console=console.help_pages,
    default_parameter=Parameter(negative=(), show_default=_shown),
)
for verb in (
    inspect,
    plan,
    convert,
    sweep,
    distill,
    evaluate,
    bench,
    export,
    report,
    push,
    run,
    completion,
):
    name = verb.__name__.rpartition(".")[2]
    app.command(getattr(verb, name), name=name, help_epilogue=f"Example: {verb.EXAMPLE}")
app.command(recipes.app)


def main() -> None:
    """The console script: expected failures are one line on stderr and an exit code."""
    with ending(), console.only_results():
        _check_given(sys.argv[1:])
        _check_alone(sys.argv[1:2])
        try:
            app(sys.argv[1:], exit_on_error=False, print_error=False)
        except CycloptsError as error:
            elsewhere = _elsewhere(error)
            raise ConvswapError(_said(error, elsewhere), do=elsewhere) from None


def _said(error: CycloptsError, elsewhere: str | None) -> str:
    """What is wrong; of words that nothing is done with, many as a shell makes of `*.jpg`, the
    first. What is known elsewhere was not meant for something alike."""
    if isinstance(error, UnusedCliTokensError):
        first, *rest = error.unused_tokens
        return f"nothing is done with {first!r}{f' and {len(rest)} more' if rest else ''}"
    said = " ".join(str(error).split())
    return said.partition(" Did you mean")[0].removesuffix(".") if elsewhere else said


def _elsewhere(error: CycloptsError) -> str | None:
    """Which verbs have an option that the one which was called has not; which folder was meant by
    the files in it; how the numbers of a size are written."""
    if isinstance(error, UnusedCliTokensError) and all(map(str.isdigit, error.unused_tokens)):
        return "numbers that belong together are joined by commas, as in 3,224,224"
    if isinstance(error, UnusedCliTokensError) and Path(error.unused_tokens[0]).is_file():
        return f"name the folder: {Path(error.unused_tokens[0]).parent}"
    if not isinstance(error, UnknownOptionError):
        return None
    able = [
        name
        for name in app
        if not name.startswith("-") and app[name].default_command
        if any(error.token.keyword in a.names for a in app[name].assemble_argument_collection())
    ]
    return f"it is an option of {', '.join(able)}" if able else None


def _check_given(words: Sequence[str]) -> None:
    """Raise `ConvswapError` for a word that says nothing, as a variable of the shell does that is
    not set: it would be read as this folder, or as an option that was not given."""
    for before, word in pairwise(("convswap", *words)):
        if not word or (word.startswith("--") and word.find("=") == len(word) - 1):
            raise ConvswapError(f"{word or before} is followed by nothing", do="say what it is")


def _check_alone(verb: Sequence[str]) -> None:
    """Raise `ConvswapError` for a verb that several processes would do at once, each all of it."""
    started = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"
    if started and [*verb] not in ([], *([each] for each in SHARED)):
        raise ConvswapError(
            f"{verb[0]} is done by one process",
            do=f"call it without torchrun, which is for {', '.join(SHARED)}",
        )
