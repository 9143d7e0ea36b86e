"""How much memory the images that are in flight take while layers are fitted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .calls import Batch, example_of
from .copies import dry_run

_MEMINFO = Path("/proc/meminfo")
_GROUPS = Path("/proc/self/cgroup")
_GROUP_FOLDER = Path("/sys/fs/cgroup")


def in_flight_bytes(model: nn.Module, input_size: Sequence[int] | object) -> int:
    """The most that one sample (an image of `(channels, height, width)`, or the first of a
    batch) holds during a forward pass.

    While layers are fitted, every calibration image is in flight, in the original and in the
    converted network: together they hold at most twice this for each.
    """
    return dry_run(model, example_of(model, input_size), _peak).found


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device, for this process; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = [free for free in (_of_the_machine(), *_of_the_groups()) if free is not None]
    return min(known, default=None)


def _of_the_machine() -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="utf-8").splitlines()
        return int(dict(line.split(":") for line in lines)["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _of_the_groups() -> Iterator[int | None]:
    """What control groups (of containers, of batch systems) leave this process, on Linux: the
    limit less what is used, of versions 1 and 2, of its own group and of all above it."""
    try:
        lines = _GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, own = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        root = _GROUP_FOLDER / "memory" if kinds else _GROUP_FOLDER
        limit, used = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
            if kinds
            else ("memory.max", "memory.current")
        )
        group = PurePosixPath(own.strip().lstrip("/"))
        for folder in (group, *group.parents):
            try:
                most = (root / folder / limit).read_text(encoding="utf-8")
                taken = (root / folder / used).read_text(encoding="utf-8")
                yield max(int(most) - int(taken), 0)
            except (OSError, ValueError):  # not there, or "max"
                continue


def _peak(network: nn.Module, example: Batch) -> int:
    with _Live([*network.parameters(), *network.buffers()]) as live:
        example.run(network)
    return live.peak


class _Live(TorchDispatchMode):
    """Adds up the storages that are alive, of all that operators put out, views of weights
    aside."""

    def __init__(self, weights: Iterable[Tensor]):
        super().__init__()
        self.peak = 0
        self._weights = {StorageWeakRef(tensor.untyped_storage()) for tensor in weights}
        self._sizes: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if StorageWeakRef(storage) not in self._weights:
                    self._sizes[StorageWeakRef(storage)] = storage.nbytes()
        self._sizes = {ref: size for ref, size in self._sizes.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self._sizes.values()))
        return output
