"""Where words go: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ..errors import one_line, spelled
from ..support.plain import nameless
from ..support.progress import Progress as Callback
from ..support.progress import silent

if TYPE_CHECKING:
    from ..recovery.judging import Judgement

for stream in ("stdout", "stderr"):
    if getattr(sys, stream) is None:  # closed: what is opened next must not take its place
        setattr(sys, stream, Path(os.devnull).open("w", encoding="utf-8"))


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """What was printed to is gone: how a command ends then is for `ending` to say."""
        raise


_AS_IT_IS = {"highlight": False, "markup": False, "emoji": False}
_KNOWN = sys.stdout.isatty() or "COLUMNS" in os.environ
out = _Console(**_AS_IT_IS, width=None if _KNOWN else 120)
err = _Console(**_AS_IT_IS, stderr=True)
help_pages = _Console(**_AS_IT_IS)


@contextmanager
def only_results() -> Iterator[None]:
    """Nothing but results and help reaches stdout inside: what users' code prints goes to
    stderr."""
    out.file = help_pages.file = sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        out._file = help_pages._file = None  # that of the moment again


def note(text: str) -> None:
    """One line for the person, on stderr; work does not end for want of a place to tell of it."""
    try:
        err.print(one_line(text), soft_wrap=True)
    except BrokenPipeError:
        raise
    except OSError:  # such as a log on a full disk
        pass


def clean(text: str) -> str:
    """Text of several lines as it may be printed."""
    return spelled(text, but="\n\t")


def wrote(path: object) -> None:
    """Say what was written and where."""
    note(f"wrote {path}")


def command() -> str:
    """The command line as it was given, to be kept, with names in place of absolute paths."""
    words = [word.rpartition("=") for word in sys.argv[1:]]
    return shlex.join(
        ["convswap", *(key + equals + nameless(value) for key, equals, value in words)]
    )


def answer(as_json: bool, document: object, *parts: object) -> None:
    """The result, on stdout: one JSON document for programs, or tables and lines for people."""
    if as_json:
        print(json.dumps(document), file=out.file)
        return
    for part in parts:
        out.print(clean(part) if isinstance(part, str) else part)


def judgement(verdict: Judgement) -> None:
    """One line for each time a training is judged."""
    note(verdict.line())


@contextmanager
def progress(quiet: bool = False) -> Iterator[Callback]:
    """A progress callback that draws one bar per step, with an estimate of the time left."""
    if quiet:
        yield silent
        return
    if not err.is_terminal:
        yield _line_per_step
        return
    from rich import progress as rich

    bars = rich.Progress(
        rich.TextColumn("{task.description:>11}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeRemainingColumn(),
        console=err,
        transient=True,
    )
    with bars:
        tasks: dict[str, int] = {}

        def callback(what: str, done: int, total: int) -> None:
            if done == total == 0:
                note(what)
                return
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total or None)
            bars.update(tasks[what], completed=done, total=total or None)

        yield callback


def _line_per_step(what: str, done: int, total: int) -> None:
    """Progress for a log: one line for each quarter of a step."""
    if done == total == 0:
        note(what)
    elif done == total or (done and total and 4 * done // total > 4 * (done - 1) // total):
        note(f"{what}: {done} of {total} done")
