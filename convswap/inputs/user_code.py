"""Functions of the user's own, named on the command line: the only code of theirs that runs."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ModelError
from .names import check_file

_brought: dict[str, Path] = {}  # modules that lie beside users' files, and in which folder


def open_function(name: str) -> Callable:
    """What `path/to/file.py:function` or `package.module:function` names.

    A file is executed, and its function called, as `python file.py` would: it may import what lies
    beside it.

    Raises:
        ModelError: there is no such file or function, or its file fails.
    """
    place, _, function = name.rpartition(":")
    folder = Path(place).resolve().parent if place.endswith(".py") else None
    try:
        with _at_home(place):
            if folder is None:
                module = importlib.import_module(place)
            else:
                with _importable(folder):
                    module = _executed(Path(place))
        found = getattr(module, function, None)
        if not callable(found):
            what = "has no" if found is None else "has no function or class"
            raise ModelError(f"{place} {what} {function!r}", do=_meant(function, module))
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        raise failed(name, error) from error

    def called(*args: Any, **kwargs: Any) -> Any:
        with _at_home(place), _importable(folder) if folder else nullcontext():
            return found(*args, **kwargs)

    called.__wrapped__ = found  # as of functools
    return called


def failed(name: str, error: BaseException) -> ModelError:
    """An error of the user's code, in one line."""
    return ModelError(f"{name} failed: {type(error).__name__}: {error}")


def _meant(function: str, module: ModuleType) -> str | None:
    """The names that a module itself gives to functions and classes, those first that are alike."""
    own = [
        name
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    close = get_close_matches(function, own, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"it has {', '.join(own[:5])}{', ...' if len(own) > 5 else ''}" if own else None


@contextmanager
def _at_home(place: str) -> Iterator[None]:
    """Users' code sees no command line of ours inside, and where it goes, we stay."""
    words, here = sys.argv, None
    with suppress(OSError):  # it was removed
        here = Path.cwd()
    sys.argv = [place]
    try:
        yield
    finally:
        sys.argv = words
        if here:
            os.chdir(here)


def _executed(path: Path) -> ModuleType:
    """The module of a file, which is found by its name from its first line on, and remains so:
    dataclasses look theirs up, and so do pickle and torch.compile."""
    check_file(path)
    own = f"convswap_user_{path.stem}_{zlib.crc32(bytes(path.resolve())):08x}"
    spec = importlib.util.spec_from_file_location(own, path)
    module = sys.modules[own] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[own]
        raise
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """What lies in a folder can be imported inside, and what lies in the folders of others' files,
    perhaps under the same names, cannot."""
    others = [name for name, where in _brought.items() if where != folder and name in sys.modules]
    hidden = {name: sys.modules.pop(name) for name in others}
    before = {*sys.modules}
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:  # once: what the user's code has put there remains
            sys.path.remove(str(folder))
        new = [name for name in sys.modules if name not in before]
        _brought.update({name: folder for name in new if _lies_in(folder, name)})
        for name, module in hidden.items():
            sys.modules.setdefault(name, module)


def _lies_in(folder: Path, name: str) -> bool:
    top = name.partition(".")[0]
    return (folder / f"{top}.py").exists() or (folder / top).is_dir()
