"""How long steps report: a plain callback, so that only the command line draws."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""
