"""What names of networks and of sources may be, told without opening them or importing PyTorch."""

from __future__ import annotations

import difflib
import importlib.util
import re
from pathlib import Path

from ..errors import ArtifactError, DataError, ModelError

DIGITS, SYNTHETIC = "digits", "synthetic"  # images that come without a path
LIBRARIES = ("timm", "torchvision")
OF_TIMM = ("hf-hub", "hf_hub", "local-dir")  # what timm's own names may begin with


def is_library(name: str) -> bool:
    """Whether a name is one of timm's or torchvision's."""
    return name.startswith(tuple(f"{library}:" for library in LIBRARIES))


def is_function(name: str) -> bool:
    """Whether it is `path/to/file.py:function`."""
    place, _, function = name.rpartition(":")
    return place.endswith(".py") and function.isidentifier()


def is_artifact(name: str) -> bool:
    """Whether a name is that of a folder, which must then be an artifact."""
    return Path(name).is_dir()


def check_model(name: str) -> None:
    """Raise `ModelError` if nothing could be meant by the name of a network, or of a folder."""
    if not name or not is_artifact(name):
        check_named(name)


def check_named(name: str) -> None:
    """Raise `ModelError` if nothing could be meant by the name of a network or of its factory."""
    place, _, what = name.rpartition(":")
    if is_function(name):
        check_file(place)
    elif not (what and (is_library(name) or _is_package(place.partition(".")[0]))):
        bare = name if re.fullmatch(r"[\w.-]+", name) else "NAME"  # of its library, or of a folder
        do = f"say timm:{bare}, torchvision:{bare}, path/to/file.py:factory or an artifact folder"
        if name.endswith(".py"):
            do = f"say {name}:FACTORY, the function in it that builds the network"
        elif Path(name).is_file():
            do = f"name the network, and add --weights {name}"
        elif meant := _meant(name):
            do = f"did you mean {meant}?"
        raise ModelError(f"unknown model {name!r}", do=do)


def _is_package(name: str) -> bool:
    return name.isidentifier() and importlib.util.find_spec(name) is not None


def _meant(name: str) -> str | None:
    """The name of one of a library's networks that was nearly spelled."""
    if name.startswith(OF_TIMM):
        return f"timm:{name}"
    library, _, rest = name.replace("/", ":").partition(":")
    close = difflib.get_close_matches(library.lower(), LIBRARIES, n=1)
    return f"{close[0]}:{rest}" if close and rest else None


def check_file(path: str | Path) -> None:
    """Raise `ModelError` unless there is this file of the user's own code."""
    if not Path(path).is_file():
        raise ModelError(f"no such file: {path}")


def check_artifact(folder: str) -> None:
    """Raise `ArtifactError` unless there is such a folder."""
    if not is_artifact(folder):
        raise ArtifactError(f"no such artifact folder: {folder}", do="make one with convert")


def check_source(source: str | Path, do: str | None = None) -> None:
    """Raise `DataError`, with what to do, unless there is a file or folder of this name, or it
    needs none."""
    if source not in (DIGITS, SYNTHETIC) and not Path(source).exists():
        raise DataError(f"no such folder or file: {source}", do=do)


def check_judge(name: str | Path) -> None:
    """Raise `ConvswapError` unless there is this function of the user's own, or these images, to
    judge by: those that are made up say nothing of quality."""
    name = str(name)
    if is_function(name):
        check_file(name.rpartition(":")[0])
    elif name == SYNTHETIC:
        raise DataError("images that are made up judge nothing", do="give real ones")
    else:
        check_source(name)
