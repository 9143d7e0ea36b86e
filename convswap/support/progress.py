"""How long steps report: plain callbacks, so that only the command line draws and prints."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much: 0 where that is not
known; twice 0 where a person is only to be told something meanwhile."""

Note = Callable[[str], None]
"""Called with one line that the person should know, such as what had to be assumed."""


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


def unheard(text: str) -> None:
    """Tell nobody."""


def once(note: Note) -> Note:
    """The same, but a line that was told is not told again."""
    return cache(note)
