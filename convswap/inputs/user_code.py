"""Functions of the user's own, named on the command line: the only code of theirs that runs."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

from ..errors import ModelError


def is_function_name(name: str) -> bool:
    """Whether it is `path/to/file.py:function`."""
    place, _, function = name.rpartition(":")
    return place.endswith(".py") and function.isidentifier()


def open_function(name: str) -> Callable:
    """What `path/to/file.py:function` or `package.module:function` names.

    Raises:
        ModelError: there is no such file or function, or its file fails.
    """
    place, _, function = name.rpartition(":")
    try:
        if place.endswith(".py"):
            path = Path(place)
            if not path.is_file():
                raise ModelError(f"no such file: {place}")
            spec = importlib.util.spec_from_file_location(f"convswap_user_{path.stem}", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        if not hasattr(module, function):
            raise ModelError(f"{place} has no {function!r}")
    except ModelError:
        raise
    except Exception as error:
        raise failed(name, error) from error
    return getattr(module, function)


def failed(name: str, error: Exception) -> ModelError:
    """An error of the user's code, in one line."""
    return ModelError(f"{name} failed: {type(error).__name__}: {error}")
