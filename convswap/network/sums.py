"""Sums that convolutions feed: what a residual block adds to their output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .lockstep import Tap

_ADDITIONS = {"add", "add_", "__add__", "__iadd__", "__radd__"}
LEAST_SCALE = 0.1  # of the root mean square: batch norm hides what smaller channels write


@dataclass(frozen=True)
class Sum:
    """A sum of what a convolution writes and something computed before the convolution runs.

    Attributes:
        other: where to get the other addend.
        norms: paths of the batch norms between the convolution and the sum.
    """

    other: Tap
    norms: tuple[str, ...]


def find_sums(network: nn.Module, image: Tensor, paths: Sequence[str]) -> dict[str, Sum]:
    """By path, the sums that convolutions feed through nothing but batch norms.

    Args:
        network: in eval mode; run once. Tensors may be on the meta device.
        paths: of the convolutions.
    """
    watcher = _Watcher(paths)
    handles = []
    for path, module in network.named_modules():
        enter, leave = watcher.hooks(path, module)
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        with torch.no_grad(), watcher:
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return watcher.sums()


def undo_norms(model: nn.Module, norms: Sequence[str], like: Tensor) -> Tensor:
    """By what to multiply a change after batch norms to make it before them: `[channels, 1, 1]`.

    Channels that the norms all but silence are held back.
    """
    scale = like.new_ones(like.shape[1])
    for path in norms:
        norm = model.get_submodule(path)
        scale = scale / (norm.running_var + norm.eps).sqrt()
        scale = scale if norm.weight is None else scale * norm.weight.detach()
    square = scale.square()
    least = (LEAST_SCALE**2 * square.mean()).clamp_min(torch.finfo(scale.dtype).tiny)
    return (scale / (square + least)).view(-1, 1, 1)


class _Written(NamedTuple):
    """What a tensor is: the output of a site, after some batch norms.

    Attributes:
        tensors: ids of the tensors it has been on the way, this one last.
    """

    site: str
    norms: tuple[str, ...]
    tensors: tuple[int, ...]


class _Added(NamedTuple):
    """An addition that was seen; `spent` says that it overwrote its first addend."""

    mine: _Written
    other: int
    spent: bool


class _Watcher(TorchFunctionMode):
    """Follows what convolutions write, up to a sum, while a network runs."""

    def __init__(self, paths: Sequence[str]):
        super().__init__()
        self._sites = set(paths)
        self._alive: list[Tensor] = []  # subtle: so that no two tensors share an id
        self._uses: Counter[int] = Counter()
        self._calls: Counter[str] = Counter()
        self._taps: list[tuple[int, Tap]] = []  # with the tensor's id, in order of execution
        self._before: dict[str, int] = {}  # by site, how many taps came before it ran
        self._written: dict[int, _Written] = {}
        self._added: list[_Added] = []

    def __torch_function__(
        self, func: Callable, types: object, args: tuple = (), kwargs: Mapping | None = None
    ) -> object:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        versions = [_version(tensor) for tensor in tensors]
        result = func(*args, **(kwargs or {}))
        handed_on = any(  # what dropout does in eval mode
            result is tensor and _version(tensor) == version
            for tensor, version in zip(tensors, versions, strict=True)
        )
        asked = not any(isinstance(leaf, Tensor) for leaf in tree_leaves(result))  # for a shape
        if not (handed_on or asked):
            self._alive += tensors
            self._uses.update({id(tensor) for tensor in tensors})
            if func.__name__ in _ADDITIONS and len(args) == len(tensors) == 2 and not kwargs:
                for mine, other in (args, args[::-1]):
                    if id(mine) in self._written and mine.shape == other.shape:
                        written = self._written[id(mine)]
                        self._added.append(_Added(written, id(other), result is mine))
        return result

    def hooks(self, path: str, module: nn.Module) -> tuple[Callable, Callable]:
        """A pre-hook and a hook for one module."""

        def enter(module: nn.Module, args: tuple) -> None:
            self._calls[path] += 1
            if path in self._sites:
                self._before[path] = len(self._taps)
            if args and isinstance(args[0], Tensor):
                self._tap(args[0], Tap(path, written=False))

        def leave(module: nn.Module, args: tuple, output: object) -> None:
            if not isinstance(output, Tensor):
                return
            self._tap(output, Tap(path, written=True))
            mine = self._written.get(id(args[0])) if args else None
            if path in self._sites:
                self._written[id(output)] = _Written(path, (), (id(output),))
            elif mine and _is_plain_norm(module):
                norms, tensors = (*mine.norms, path), (*mine.tensors, id(output))
                self._written[id(output)] = _Written(mine.site, norms, tensors)

        return enter, leave

    def sums(self) -> dict[str, Sum]:
        """What was found; only where nobody else reads what a site writes."""
        found = {}
        for mine, other, spent in self._added:
            on_the_way = mine.tensors[:-1] if spent else mine.tensors
            once = self._calls[mine.site] == 1 and all(self._uses[i] == 1 for i in on_the_way)
            taps = [
                tap
                for tensor, tap in self._taps[: self._before[mine.site]]
                if tensor == other and self._calls[tap.path] == 1
            ]
            if once and taps:  # the last, by when what changes it in place has run
                found[mine.site] = Sum(taps[-1], mine.norms)
        return found

    def _tap(self, tensor: Tensor, tap: Tap) -> None:
        self._alive.append(tensor)
        self._taps.append((id(tensor), tap))


def _version(tensor: Tensor) -> int | None:
    """How often a tensor has been changed in place, where PyTorch counts that."""
    return None if tensor.is_inference() else tensor._version


def _is_plain_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm with fixed statistics, and nothing else."""
    if isinstance(module, BatchNormAct2d):
        return isinstance(module.act, nn.Identity) and module.running_var is not None
    return type(module) is nn.BatchNorm2d and module.running_var is not None
