"""How a command ends: well, or with one line on stderr and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from ..errors import ConvswapError
from ..support.files import one_writer
from ..support.signals import asking
from .console import note

UNREAD = 141  # as a program ends that SIGPIPE stops


@contextmanager
def ending() -> Iterator[None]:
    """How a command ends: as `_ending` says, or, where nobody reads what it prints any more (as
    with `| head`), without a word."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names that the terminal's characters cannot write
            stream.reconfigure(errors="backslashreplace")
    try:
        with _ending():
            yield
            sys.stdout.flush()
    except BrokenPipeError:
        sys.exit(UNREAD)
    finally:
        _let_go(sys.stdout, sys.stderr)


@contextmanager
def _ending() -> Iterator[None]:
    """Expected failures inside are one line and their exit code: ours, the disk's, and being
    stopped from outside (SIGINT, SIGTERM, SIGHUP), which cleans up as any other failure does. What
    a command says it will write is its alone meanwhile."""
    stopped: list[signal.Signals] = []

    def stop(number: int, frame: object) -> None:
        stopped.append(signal.Signals(number))
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait
        raise KeyboardInterrupt

    before = {each: signal.signal(each, stop) for each in asking()}
    try:
        with one_writer():
            yield
    except ConvswapError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        _fail(f"{error.strerror or error}{where}", 2)
    except (MemoryError, RuntimeError) as error:
        if not _lacks_memory(error):
            raise
        _fail("out of memory - use fewer images, or a smaller --batch-size", 2)
    except BaseException:  # libraries turn the interrupt into what they like
        if not stopped:
            raise
        note(
            f"stopped by {stopped[0].name}: what is written is whole; the same command starts "
            "again, and a training goes on from its last checkpoint"
        )
        sys.exit(128 + stopped[0])
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _lacks_memory(error: Exception) -> bool:
    """PyTorch has a class of its own for a GPU's memory, and none for the processor's; the last is
    what oneDNN says."""
    words = ("out of memory", "not enough memory", "can't allocate memory", "create a primitive")
    return isinstance(error, MemoryError) or any(each in str(error).lower() for each in words)


def _let_go(*streams: TextIO) -> None:
    """What cannot be printed is not tried again by Python as it exits, which would say so."""
    for stream in streams:
        try:
            stream.flush()
        except OSError:
            with suppress(OSError), Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


def _fail(line: str, code: int) -> None:
    note(f"error: {line}")
    sys.exit(code)
