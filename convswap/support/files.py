"""Writing without loss: everything is written under a temporary name, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConvswapError


def check_new(path: str | Path, force: bool, *, folder: bool = False) -> Path:
    """The path, if it may be written: it does not exist yet or `force` is set.

    Args:
        folder: whether a folder is to be written there, or a file.

    Raises:
        ConvswapError: it exists, or is of the other kind, or its parent folder does not exist.
    """
    path = Path(path)
    if path.exists() and not force:
        raise ConvswapError(f"{path} exists", do="choose another name, or pass --force")
    if path.exists() and path.is_dir() != folder:
        kind = "a file" if folder else "a folder"
        raise ConvswapError(f"{path} is {kind}", do="choose another name")
    if not path.absolute().parent.is_dir():
        raise ConvswapError(f"folder {path.absolute().parent} does not exist", do="create it first")
    return path


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it takes the name `path` if all went well."""
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=f".{path.name}.") as folder:
        yield Path(folder) / path.name
        os.replace(Path(folder) / path.name, path)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path`; it replaces `path` if all went well."""
    path = Path(path)
    folder = Path(tempfile.mkdtemp(dir=path.absolute().parent, prefix=f".{path.name}."))
    try:
        folder.chmod(0o755)
        yield folder
        if path.exists():
            old = folder.with_name(f"{folder.name}.old")
            os.replace(path, old)
            os.replace(folder, path)
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        else:
            os.replace(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
