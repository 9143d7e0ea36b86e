"""Keep libraries that talk quiet."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines, no warnings, nothing printed from Python: exporters and decoders talk a lot,
    and what goes wrong is raised."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextmanager
def silent_stdout() -> Iterator[None]:
    """Nothing inside reaches file descriptor 1, of the whole process: HiGHS now and then prints
    a line there, past Python and past its own options."""
    with _silent(1):
        yield


@contextmanager
def silent_streams() -> Iterator[None]:
    """Nothing inside reaches file descriptors 1 and 2: LiteRT tells its progress there."""
    with _silent(1), _silent(2), redirect_stderr(io.StringIO()):
        yield


@contextmanager
def _silent(descriptor: int) -> Iterator[None]:
    flush = getattr(ctypes.pythonapi, "fflush", lambda stream: 0)  # of C's streams; not on Windows
    try:
        kept = os.dup(descriptor)
    except OSError:  # it is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    flush(None)
    os.dup2(nowhere, descriptor)
    try:
        yield
    finally:
        flush(None)
        os.dup2(kept, descriptor)
        os.close(kept)
        os.close(nowhere)
