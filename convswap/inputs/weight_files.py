"""The files that hold weights: which ones a path means, and what is in them; no code is run."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelError, reason
from ..support.files import check_regular, read_text
from ..support.plain import read_json
from ..support.progress import Note, unheard
from ..support.quiet import quiet
from ..support.tensors import read_header, read_tensors
from .arrays import unpack

FOLDER = ("model.safetensors", "pytorch_model.bin")  # what transformers and timm write
INDEX = ".index.json"  # of shards
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".pth.tar")  # of what others write

PICKLED = (b"PK", b"\x80")  # what files of `torch.save` begin with


class _PassedOver:
    """Stands for what trainers keep beside weights: nobody looks at it, so none of it is built."""

    def __new__(cls, *_: object) -> _PassedOver:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


class _Kept(_PassedOver):
    """Stands for a NumPy array or its type: what it would be made of, of which nothing is run."""

    made: tuple = ()
    state: object = None

    def __new__(cls, *made: object) -> _Kept:
        kept = super().__new__(cls)
        kept.made = made
        return kept

    def __setstate__(self, state: object) -> None:
        self.state = state


BESIDE = [
    "argparse.Namespace",
    *(f"pathlib{part}.{kind}Path" for part in ("", "._local") for kind in ("Posix", "Windows")),
    *(f"datetime.{kind}" for kind in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")), "numpy.ndarray",
]  # fmt: skip
ARRAYS = [*(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")), "numpy.dtype"]
NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")  # NumPy's names of their types


def weight_files(path: Path, note: Note = unheard) -> list[Path]:
    """The files of the weights that a file, an index of shards or a folder of such holds.

    Args:
        note: told which file of a folder was taken, if it has a name of its own.

    Raises:
        ModelError: there are none, or they may be any of several.
    """
    try:
        file = _chosen(path, note) if path.is_dir() else path
        if file.name.endswith(INDEX):
            shards = sorted(set(read_json(read_text(file))["weight_map"].values()))
            if any(Path(shard).name != shard for shard in shards):
                raise ModelError(f"the index {file} names files outside of its folder")
            files = [file.parent / shard for shard in shards]
        else:
            files = [file]
        for each in files:
            check_regular(each)
    except FileNotFoundError as error:
        raise ModelError(f"no such weights file: {error.filename}") from None
    except OSError as error:
        raise ModelError(f"cannot read weights {path}: {error.strerror}") from None
    except ValueError as error:
        raise ModelError(f"not an index of weights files: {file} ({error})") from None
    except (LookupError, TypeError, AttributeError):
        raise ModelError(f"not an index of weights files: {file}") from None
    return files


def digest(path: Path) -> str:
    """SHA-256 of a weights file, or of the files of a folder one after another."""
    found = hashlib.sha256()
    for file in weight_files(path):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                found.update(block)
    return found.hexdigest()


def read_weights(path: Path) -> Mapping:
    """What one file holds, as far as it is tensors, plain numbers and words.

    Raises:
        ModelError: it is damaged, or holds anything else, which is never run.
    """
    if _is_safetensors(path):
        try:
            read_header(path)
            return read_tensors(path)
        except (OSError, ValueError) as error:
            raise ModelError(f"not a readable safetensors file: {path} ({error})") from None
    if arrays := _arrays_in(path):
        return arrays
    try:
        stand_ins = {_PassedOver: BESIDE, _Kept: ARRAYS}
        pairs = [(kind, name) for kind, names in stand_ins.items() for name in names]
        known = torch.serialization.safe_globals(pairs)
        with known, quiet(), path.open("rb") as file:  # subtle: a path is judged by its name
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        raise ModelError(
            f"not a checkpoint of plain tensors: {path}{f' holds {code[1]}' if code else ''}",
            do="save its state_dict as safetensors",
        ) from None
    if isinstance(content, (list, tuple)):
        return {str(index): value for index, value in enumerate(content)}
    return with_tensors(content) if isinstance(content, Mapping) else {}


def with_tensors(content: Mapping, deepest: int = 4) -> Mapping:
    """A checkpoint with tensors in place of NumPy arrays and lists of numbers, in those of its
    parts that look like a state dict: names like `layer.weight`, and nothing else in it."""
    found = {
        key: with_tensors(value, deepest - 1) if isinstance(value, Mapping) and deepest else value
        for key, value in content.items()
    }
    if any(isinstance(value, Tensor) for value in found.values()):
        return found
    tensors = {key: _tensor_of(value) for key, value in found.items()}
    whole = all(isinstance(value, Tensor) for value in tensors.values())
    return tensors if whole and any("." in str(key) for key in found) else found


def _tensor_of(value: object) -> object:
    """A tensor of an array, of a list of numbers or of one; all else as it is."""
    try:
        if isinstance(value, np.ndarray):
            return torch.from_numpy(value)
        if isinstance(value, (list, int, float)) and value != []:
            return torch.tensor(value)
        if isinstance(value, _Kept) and isinstance(value.state, tuple):
            _, shape, kind, by_columns, content = value.state
            if kind.made[0] in NUMBERS and kind.state[1] in "<|" and isinstance(content, bytes):
                array = np.frombuffer(content, kind.made[0])
                array = array.reshape(shape, order="F" if by_columns else "C")
                return torch.from_numpy(array.copy())
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError):
        pass  # it is something else
    return value


def _arrays_in(path: Path) -> Mapping | None:
    """What an archive of NumPy arrays holds; None of any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            if not all(name.endswith(".npy") for name in archive.namelist()):
                return None
        return with_tensors(unpack(path))
    except (OSError, zipfile.BadZipFile):
        return None
    except Exception as error:  # what damaged archives make of readers has no common type
        raise ModelError(f"cannot read weights {path}: {reason(error)}") from None


def _is_safetensors(path: Path) -> bool:
    """By what it begins with, whatever its name; by its name, if that tells nothing."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError:
        start = b""
    named = path.suffix.lower() == ".safetensors"
    return start[8:] == b"{" or (named and not start.startswith(PICKLED))


def _chosen(folder: Path, note: Note) -> Path:
    """The file, or the index of shards, in a folder: of the usual name, else the only one."""
    for name in (f"{name}{kind}" for name in FOLDER for kind in ("", INDEX)):
        if (folder / name).is_file():
            return folder / name
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    indices, files = ([n for n in names if n.endswith(kinds)] for kinds in (INDEX, SUFFIXES))
    only = indices or files
    if len(only) == 1:
        note(f"{folder}: {only[0]} is taken")
        return folder / only[0]
    there = files or names
    listed = ", ".join(there[:5]) + (", ..." if len(there) > 5 else "")
    raise ModelError(
        f"no weights in folder {folder}: looked for {', '.join(FOLDER)} or one file of "
        f"{', '.join(SUFFIXES)}; there is {listed or 'nothing'}",
        do="name the file",
    )
