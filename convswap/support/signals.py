"""Being asked to stop, between two steps."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ASKING = ("SIGINT", "SIGTERM", "SIGHUP")  # of a system without hangups the first two


def asking() -> list[signal.Signals]:
    """The signals that ask this process to stop, but for those that it was told to ignore
    (`nohup`), or that are handled outside of Python."""
    known = [getattr(signal, name) for name in _ASKING if hasattr(signal, name)]
    return [each for each in known if signal.getsignal(each) not in (signal.SIG_IGN, None)]


@contextmanager
def collected() -> Iterator[list[int]]:
    """The signals to stop that arrived inside, which must not end a step in its middle. The
    first comes to its usual end afterwards; a second of Ctrl-C at once, for the impatient.

    In a thread that is not the main one nothing is collected.
    """
    arrived: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield arrived
        return

    def note(number: int, frame: object) -> None:
        if arrived and number == signal.SIGINT:
            raise KeyboardInterrupt
        arrived.append(number)

    before = {number: signal.signal(number, note) for number in asking()}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if arrived and before[arrived[0]] == signal.SIG_DFL:
        sys.exit(128 + arrived[0])  # as if killed, but folders in the making are cleared away
    if arrived:
        signal.raise_signal(arrived[0])
