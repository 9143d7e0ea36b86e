"""What libraries print past Python does not reach standard output."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from convswap.support.quiet import silent_stdout


def print_in_c(line: str) -> None:
    """Print past Python, and leave the line in C's buffer."""
    ctypes.pythonapi.puts(line.encode())


def flush_in_c() -> None:
    ctypes.pythonapi.fflush(None)


def open_descriptors() -> list[str]:
    return sorted(path.name for path in Path("/dev/fd").iterdir())


def test_nothing_printed_in_c_reaches_standard_output(capfd):
    print_in_c("before")
    with silent_stdout():
        print_in_c("inside")
        os.write(1, b"inside, too")
    print_in_c("after")
    flush_in_c()
    assert capfd.readouterr().out == "before\nafter\n"


def test_standard_output_is_back_after_an_error(capfd):
    before = open_descriptors()
    with pytest.raises(KeyboardInterrupt), silent_stdout():
        raise KeyboardInterrupt
    os.write(1, b"after")
    assert capfd.readouterr().out == "after"
    assert open_descriptors() == before


def test_without_standard_output_nothing_is_silenced():
    kept = os.dup(1)
    os.close(1)
    try:
        with silent_stdout():
            done = True
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    assert done
