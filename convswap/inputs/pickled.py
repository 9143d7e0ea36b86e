"""What `torch.save` writes, read without running any of it: tensors, and in place of all else
what stands for it."""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelError
from ..support.quiet import quiet


class _PassedOver:
    """Stands for what trainers keep beside weights: nobody looks at it, so none of it is built."""

    def __new__(cls, *made: object) -> object:
        # subtle: what is made of nothing may get attributes, as modules do, or entries; torch.fx
        # makes modules of their attributes, torch.compile of another module
        attributes = made[0] if made else {}
        if "_modules" in getattr(attributes, "__dict__", {}):
            return attributes
        if made and not (isinstance(attributes, dict) and "_modules" in attributes):
            return super().__new__(cls)
        stand_in = OrderedDict()
        stand_in.__dict__.update(attributes)
        return stand_in

    def __setstate__(self, state: object) -> None:
        pass


class _Entries(_PassedOver):
    """Stands for a mapping that is made of something."""

    def __new__(cls, *_: object) -> object:
        return OrderedDict()


class _Row(_PassedOver):
    """Stands for a queue, which gets its items one after another."""

    def __new__(cls, *_: object) -> object:
        return []


class _Settings(OrderedDict):
    """Stands for the arguments of a script: its attributes are entries."""

    def __setstate__(self, state: object) -> None:
        self.update(state if isinstance(state, dict) else {})


class _Kept:
    """Stands for a NumPy array or its type: what it would be made of, of which nothing is run."""

    state: object = None

    def __init__(self, *made: object):
        self.made = made

    def __setstate__(self, state: object) -> None:
        self.state = state


STAND_INS = {
    **{f"numpy.{core}.multiarray._reconstruct": _Kept for core in ("core", "_core")},
    "numpy.dtype": _Kept, "collections.defaultdict": _Entries, "collections.deque": _Row,
    "argparse.Namespace": _Settings,
}  # fmt: skip
MOST = 1 << 16  # modules, or tensors, of a network that was saved whole
NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")  # NumPy's names of their types


def read_pickled(path: Path) -> Mapping:
    """What a file of `torch.save` holds; of what is neither a tensor nor plain, nothing is made.

    Returns:
        Its entries, those of a list by their numbers. NumPy arrays are tensors, and networks that
        were saved whole are their state dicts.

    Raises:
        ModelError: it is damaged, or cannot be read without running code.
    """
    try:
        pairs = [
            (STAND_INS.get(name, _PassedOver), name) for name in {*STAND_INS, *_named_in(path)}
        ]
        known = torch.serialization.safe_globals(pairs)
        with known, quiet(), path.open("rb") as file:  # subtle: a path is judged by its name
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        if isinstance(error, EOFError) or "unexpected EOF" in str(error):
            raise ModelError(
                f"{path} is cut off, not a checkpoint", do="copy or download it again"
            ) from None
        code = re.search(r"GLOBAL (\S+)", str(error))
        raise ModelError(
            f"not a checkpoint of plain tensors: {path}{f' holds {code[1]}' if code else ''}",
            do="save its state_dict as safetensors",
        ) from None
    if isinstance(content, (list, tuple)):
        content = {str(index): value for index, value in enumerate(content)}
    return with_tensors(content) if isinstance(content, Mapping) else {}


def _named_in(path: Path) -> set[str]:
    """The classes and functions that a file of `torch.save` would be made of, by their names."""
    found: set[str] = set()
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(path):
                found.update(torch.serialization.get_unsafe_globals_in_checkpoint(file))
            else:  # written by PyTorch before 1.6: what is saved comes after three other pickles
                for _ in range(4):
                    operations = pickletools.genops(file)
                    found.update(
                        str(name).replace(" ", ".")
                        for code, name, _ in operations
                        if code.name == "GLOBAL"
                    )
    except Exception:  # a damaged file, or one of another kind: reading it tells
        pass
    return found


def _state_of(network: Mapping) -> dict[str, object]:
    """The state dict of a network that was saved whole, out of the attributes of its modules."""
    found: dict[str, object] = {}
    for prefix, module in islice(_modules_of(network), MOST):
        passing = module.get("_non_persistent_buffers_set") or ()
        for name, tensor in (module["_parameters"] | module["_buffers"]).items():
            if tensor is not None and name not in passing:
                found[f"{prefix}{name}"] = tensor
        if len(found) > MOST:
            break
    return found


def _modules_of(
    module: Mapping, prefix: str = "", deepest: int = 100
) -> Iterator[tuple[str, Mapping]]:
    """The attributes of a module and of all within it, which may hold itself."""
    yield prefix, module
    for name, child in module["_modules"].items() if deepest else ():
        if child is not None:
            yield from _modules_of(vars(child), f"{prefix}{name}.", deepest - 1)


def with_tensors(content: Mapping, deepest: int = 4) -> Mapping:
    """A checkpoint with tensors in place of NumPy arrays and lists of numbers, in those of its
    parts that look like a state dict: names like `layer.weight`, and nothing else in it; of
    networks that were saved whole, their state dicts."""
    if "_modules" in (attributes := getattr(content, "__dict__", {})):
        try:
            return _state_of(attributes)
        except (LookupError, TypeError, AttributeError):  # only named like a network
            return {}
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
