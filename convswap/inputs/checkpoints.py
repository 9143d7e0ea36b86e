"""Weights as people have them: state dicts in any wrapping, in one file or in a folder."""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
from collections.abc import Mapping
from itertools import accumulate, takewhile
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..support.files import check_regular, read_text
from ..support.quiet import quiet
from ..support.tensors import read_header, read_tensors

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "params_ema", "ema")
TRAINED = ("state_dict", "model_state_dict", "model", "params", "network", "net", "weights")
WRAPPERS = ("module", "model", "state_dict", "shadow_params")  # in what is found under those names
FOLDER = ("model.safetensors", "pytorch_model.bin")  # what transformers and timm write
PLAIN_TYPES = [argparse.Namespace, pathlib.PosixPath]  # timm's train.py keeps its arguments


def load_weights_(model: nn.Module, path: Path, *, averaged: bool = True) -> str | None:
    """Load weights into a network, strictly, in place; they are cast to its types.

    A prefix that all names have in common, such as `module.` or `_orig_mod.model.`, is left out
    where the names fit without it.

    Args:
        path: a safetensors file, a checkpoint that `torch.load(weights_only=True)` opens, or a
            folder of such, in one file or in shards with an index.
        averaged: whether averaged weights (EMA) are taken where there are any.

    Returns:
        One line about what was taken, if there was a choice.

    Raises:
        ModelError: the weights cannot be read, or do not fit.
    """
    content = {}
    for file in _files(path):
        content |= _read(file)
    state, taken = _state_dict(content, path, averaged)
    wanted = model.state_dict()
    state = _fitted(state, wanted, path)
    for name, tensor in wanted.items():  # written by PyTorch before 0.4.1
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, tensor)
    both = wanted.keys() & state.keys()
    found = {
        "missing": wanted.keys() - state.keys(),
        "unknown": state.keys() - wanted.keys(),
        "of another shape": {k for k in both if wanted[k].shape != state[k].shape},
        "of another type": {
            k for k in both if wanted[k].is_floating_point() != state[k].is_floating_point()
        },
    }
    parts = [
        f"{len(names)} {what} ({', '.join(sorted(names)[:2])}{', ...' if len(names) > 2 else ''})"
        for what, names in found.items()
        if names
    ]
    if parts:
        raise ModelError(
            f"weights do not fit {type(model).__name__}: {', '.join(parts)}",
            where=str(path),
            do="check the model's name and arguments (--model-arg num_classes=10)",
        )
    model.load_state_dict(state)
    return taken


def digest(path: Path) -> str:
    """SHA-256 of a weights file, or of the files of a folder one after another."""
    found = hashlib.sha256()
    for file in _files(path):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                found.update(block)
    return found.hexdigest()


def _files(path: Path) -> list[Path]:
    """The files that hold the weights."""
    names = [f"{name}{kind}" for name in FOLDER for kind in ("", ".index.json")]
    file = next((path / n for n in names if (path / n).is_file()), path) if path.is_dir() else path
    try:
        if file.name.endswith(".index.json"):
            shards = sorted(set(json.loads(read_text(file))["weight_map"].values()))
            if any(Path(shard).name != shard for shard in shards):
                raise ModelError(f"the index {file} names files outside of its folder")
            files = [path / shard for shard in shards]
        else:
            files = [file]
        for each in files:
            check_regular(each)
    except FileNotFoundError as error:
        raise ModelError(f"no such weights file: {error.filename}") from None
    except IsADirectoryError:
        raise ModelError(f"no weights in folder {path}") from None
    except OSError as error:
        raise ModelError(f"cannot read weights {path}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ModelError(f"not an index of weights files: {file}") from None
    return files


def _read(path: Path) -> Mapping:
    if path.suffix == ".safetensors":
        try:
            read_header(path)
            return read_tensors(path)
        except (OSError, ValueError) as error:
            raise ModelError(f"not a readable safetensors file: {path} ({error})") from None
    try:
        with torch.serialization.safe_globals(PLAIN_TYPES), quiet():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # damaged, or pickled code, which is never run
        raise ModelError(
            f"not a checkpoint of plain tensors: {path}", do="save its state_dict as safetensors"
        ) from None
    return content if isinstance(content, Mapping) else {}


def _state_dict(
    content: Mapping, path: Path, averaged: bool
) -> tuple[dict[str, Tensor], str | None]:
    """The state dict in a checkpoint, and a line about what was taken if there was a choice."""
    places = {
        name: state
        for name in (*AVERAGED, *TRAINED)
        if (state := _unwrapped(content.get(name))) is not None
    }
    order = (*AVERAGED, *TRAINED) if averaged else (*TRAINED, *AVERAGED)
    name = next((name for name in order if name in places), None)
    state = places.get(name, content)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"no state_dict in {path}")
    for key, tensor in state.items():
        if not isinstance(key, str):
            raise ModelError(f"the names of tensors must be words, not {key!r}", where=str(path))
        if kind := _odd(tensor):
            raise ModelError(f"{key} is {kind}: only dense tensors are read", where=str(path))
    if averaged and name in AVERAGED:
        return state, f"{path}: averaged weights are taken ({name}; --no-ema takes the others)"
    return state, None


def _unwrapped(content: object, deepest: int = 100) -> Mapping | None:
    """What may be a state dict inside one entry of a checkpoint, which may hold itself."""
    if not isinstance(content, Mapping) or not deepest:
        return None
    inner = [content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)]
    return _unwrapped(inner[0], deepest - 1) if inner else content


def _odd(tensor: Tensor) -> str | None:
    if tensor.is_meta:
        return "without values"
    if tensor.is_quantized:
        return "quantised"
    if tensor.layout != torch.strided or tensor.is_nested:
        return "sparse"
    return "complex" if tensor.is_complex() else None


def _fitted(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """A state dict without the prefix, common to all names, that most names fit without."""
    named: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = key.replace("_orig_mod.", "")  # torch.compile, of any submodule
        if name in named:
            raise ModelError(f"two tensors are named {name}", where=str(path))
        named[name] = tensor
    parts = [name.split(".")[:-1] for name in named]
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    prefixes = [*accumulate((f"{level[0]}." for level in levels), initial="")]
    best = max(prefixes, key=lambda p: sum(name[len(p) :] in wanted for name in named))
    return {name[len(best) :]: tensor for name, tensor in named.items()}
