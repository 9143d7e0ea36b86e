"""safetensors files, looked at before they are read: names, shapes and types come first."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .files import check_regular
from .plain import read_json

HEADER_BYTES = 2 << 20  # some 15,000 tensors; of timm's networks the largest has 2,000
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "BOOL": torch.bool,
    "C64": torch.complex64,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """What a file says of one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @classmethod
    def of(cls, tensor: Tensor) -> Entry:
        """What a file would say of a tensor."""
        return cls(tuple(tensor.shape), tensor.dtype)


def read_header(path: Path) -> dict[str, Entry]:
    """Name, shape and type of every tensor of a safetensors file; no tensor is read.

    Raises:
        OSError, ValueError: the file cannot be read, or is damaged; one line.
    """
    check_regular(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > HEADER_BYTES:
            raise ValueError(f"its header says it has {length} bytes")
        header = file.read(length)
    try:
        with _mapped(path) as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            # subtle: safetensors takes the last of tensors of one name
            read_json(header.decode(), HEADER_BYTES)
            kinds = {name: part.get_dtype() for name, part in slices.items()}
            if odd := [name for name, kind in kinds.items() if kind not in DTYPES]:
                raise ValueError(f"{odd[0]} has the unknown type {kinds[odd[0]]}")
            return {
                name: Entry(tuple(part.get_shape()), DTYPES[kinds[name]])
                for name, part in slices.items()
            }
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file whose header has been looked at.

    Raises:
        OSError, ValueError: the file cannot be read, or is damaged; one line.
    """
    try:
        with _mapped(path) as file:
            # subtle: tensors in the mapped file are not aligned as fresh ones are; sums would
            # differ
            return {name: file.get_tensor(name).clone() for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def _mapped(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except RuntimeError as error:  # PyTorch's, which maps the file
        raise ValueError(str(error)) from None


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 of each tensor: of its type, its shape, and its bytes in memory."""
    return {name: _digest(tensor) for name, tensor in tensors.items()}


def _digest(tensor: Tensor) -> str:
    found = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode())
    content = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
    found.update(content.numpy())
    return found.hexdigest()
