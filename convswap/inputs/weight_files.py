"""The files that hold weights: which ones a path means, and what is in them; no code is run."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import ModelError, reason
from ..support.files import check_regular, read_text
from ..support.plain import read_json
from ..support.progress import Note, unheard
from ..support.tensors import read_header, read_tensors
from .arrays import unpack
from .pickled import read_pickled, with_tensors
from .sources import packing

FOLDER = ("model.safetensors", "pytorch_model.bin")  # what transformers and timm write
INDEX = ".index.json"  # of shards
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".pth.tar")  # of what others write

VARIANT = re.compile(r"[._](fp16|bf16|fp32|non_ema)$|pytorch_")  # in names of the same weights

PICKLED = (b"PK", b"\x80")  # what files of `torch.save` begin with


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
    """What one file holds, by name; no code that it brings along is run.

    Raises:
        ModelError: it is damaged, or of another kind.
    """
    if _is_safetensors(path):
        try:
            read_header(path)
            return read_tensors(path)
        except (OSError, ValueError) as error:
            _check_kind(path)
            raise ModelError(f"not a readable safetensors file: {path} ({error})") from None
    if arrays := _arrays_in(path):
        return arrays
    try:
        return read_pickled(path)
    except ModelError:
        _check_kind(path)
        raise


def _check_kind(path: Path) -> None:
    """Say what a file that could not be read is, if it is of a kind that is taken for weights."""
    with path.open("rb") as file:
        text = file.read(200).strip().decode("utf-8", "replace")
    kind = packing(path)
    if text.startswith("version https://git-lfs"):
        what, do = "a pointer to a file that Git LFS holds", "fetch the file: git lfs pull"
    elif text.startswith("<") or (text.isascii() and "".join(text.split()).isprintable()):
        what, do = f"text ({text.splitlines()[0][:40]})", "download it again"
    elif kind == "zip":
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name.partition("/")[2] for name in archive.namelist()]
        except zipfile.BadZipFile:
            what, do = "cut off or damaged", "copy or download it again"
        else:
            if "constants.pkl" in names:
                what, do = "a TorchScript program", "save the state_dict of torch.jit.load(file)"
            elif "archive_format" in names:
                what, do = "an exported program", "save the state_dict of torch.export.load(file)"
            elif "data.pkl" not in names:
                what, do = "packed with zip", "unpack it"
            else:
                return
    elif kind:
        what, do = f"packed with {kind}", "unpack it"
    else:
        return
    raise ModelError(f"{path} is {what}, not a checkpoint", do=do)


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
    only = indices or _without_twins(files)
    if len(only) == 1:
        note(f"{folder}: {only[0]} is taken")
        return folder / only[0]
    if any(name.endswith(".distcp") for name in names):
        raise ModelError(
            f"{folder} is a checkpoint of torch.distributed",
            do="make one file of it: python -m torch.distributed.checkpoint.format_utils "
            f"dcp_to_torch {folder} FILE",
        )
    there = files or names
    listed = ", ".join(there[:5]) + (", ..." if len(there) > 5 else "")
    raise ModelError(
        f"no weights in folder {folder}: looked for {', '.join(FOLDER)} or one file of "
        f"{', '.join(SUFFIXES)}; there is {listed or 'nothing'}",
        do="name the file",
    )


def _without_twins(files: Iterable[str]) -> list[str]:
    """The names of files but for those that hold the same weights as another, in another format or
    precision."""
    chosen: dict[str, str] = {}
    plain = sorted(files, key=lambda name: (not name.endswith(SUFFIXES[0]), len(name)))
    for name in plain:
        chosen.setdefault(VARIANT.sub("", Path(name).stem), name)
    return [*chosen.values()]
