"""Watch a network run once: what its convolutions read and write, and what happens around them."""

from __future__ import annotations

import math
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._C import DisableTorchFunction
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..support.loaded import loaded
from ..support.randomness import seeded
from .calls import Batch
from .cost import Counter as MacCounter
from .cost import Size
from .known_shapes import KnownShapes
from .lockstep import Tap, first_given
from .sums import Sum
from .thread_state import AUTOCAST

_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
_PUT = Tensor.data.__set__
_ADDITIONS = {"add", "add_", "__add__", "__iadd__", "__radd__"}


def watch(
    network: nn.Module, example: Batch, paths: Sequence[str], counter: MacCounter | None = None
) -> Watcher:
    """Run a network once and return what was seen of the modules at `paths`.

    What it draws at random is the same every time.

    Args:
        network: in eval mode. Tensors may be on the meta device.
        paths: of the convolutions, or of what stands there.
        counter: to count meanwhile what the network runs, and nothing else; if any.
    """
    counting, counter = counter or nullcontext(), counter or MacCounter()
    watcher = Watcher(network, paths, counter)
    handles = []
    for path, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):  # it takes no such hooks
            continue
        enter, leave = watcher.hooks(path)
        handles += [
            module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True),
            module.register_forward_hook(leave, with_kwargs=True),
        ]
    try:
        with torch.no_grad(), seeded(0), counting, KnownShapes(counter), watcher:
            example.run(network)
    finally:
        for handle in handles:
            handle.remove()
    return watcher


class Watcher(TorchFunctionMode):
    """Follows what convolutions write, up to a sum, while a network runs.

    Attributes:
        sizes: by site, one for each call, in order of execution.
        types: by site, the type of what it reads, where that is the type it computes in.
        positions: by site, how often its kernel is applied, over all calls.
        macs: by site, the multiply-adds of all that ran in it, if they are counted meanwhile.
        transformed: sites that run inside of `torch.vmap` and its like.
        threaded: sites that run in another thread, or in what `torch.jit.fork` was given, where a
            run cannot be suspended.
        read: sites whose weight or bias something else computes with.
        changed: sites that get other settings, such as padding, or other values on the way.
        given: sites that are given more than what they read (or, transposed, how much to write).
        trail: every function that ran outside of the sites, with the shapes of its results.
    """

    def __init__(self, network: nn.Module, paths: Sequence[str], counter: MacCounter):
        super().__init__()
        self._counter = counter
        self.macs: Counter[str] = Counter()
        self.sizes: dict[str, list[Size]] = {}
        self.types: dict[str, torch.dtype] = {}
        self.positions: dict[str, int] = {}
        self.transformed: set[str] = set()
        self.threaded: set[str] = set()
        self.read: set[str] = set()
        self.changed: set[str] = set()
        self.given: set[str] = set()
        self.trail: list[tuple] = []
        self._owner = {
            id(parameter): path
            for path in paths
            for parameter in network.get_submodule(path).parameters()
        }
        self.paths = list(paths)
        self._thread = threading.get_ident()
        # subtle: known beforehand, for a weight may be computed, which would be seen
        self._axes = {path: network.get_submodule(path).weight.dim() - 2 for path in paths}
        self._settings = {path: _settings(network.get_submodule(path)) for path in paths}
        self._inside: list[str] = []
        self._convolved: list[Tensor] = []  # inside the innermost site
        self._alive: list[Tensor] = []  # subtle: so that no two tensors share an id
        self._uses: Counter[int] = Counter()
        self._calls: Counter[str] = Counter()  # of every module
        self._taps: list[tuple[int, Tap]] = []  # with the tensor's id, in order of execution
        self._before: dict[str, int] = {}  # by site, how many taps came before it ran
        self._written: dict[int, _Written] = {}
        self._added: list[_Added] = []
        self._readers: list[tuple[str, str, int]] = []  # module, site it reads, the tensor's id

    def __torch_function__(
        self, func: Callable, types: object, args: tuple = (), kwargs: Mapping | None = None
    ) -> object:
        with DisableTorchFunction():  # other modes need not see what is looked at here
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            versions = [_version(tensor) for tensor in tensors]
        result = func(*args, **(kwargs or {}))
        with DisableTorchFunction():
            self._note(func, args, kwargs, tensors, versions, result)
        return result

    def _note(
        self,
        func: Callable,
        args: tuple,
        kwargs: Mapping | None,
        tensors: list[Tensor],
        versions: list[int | None],
        result: object,
    ) -> None:
        """Keep what follows from a function that has run.

        Args:
            tensors, versions: what it was given, and how often that had been changed before.
        """
        handed_on = any(  # what dropout does in eval mode
            result is tensor and _version(tensor) == version
            for tensor, version in zip(tensors, versions, strict=True)
        )
        if func == _PUT and id(args[0]) in self._owner:
            self.changed.add(self._owner[id(args[0])])
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if not made or handed_on:  # without a tensor: somebody asked for a shape
            return
        self._alive += tensors
        self._uses.update({id(tensor) for tensor in tensors})
        if self._inside and func.__name__ in _CONVOLUTIONS:
            self._convolved.append(result)
        if not self._inside:
            self.read.update(self._owner[id(t)] for t in tensors if id(t) in self._owner)
            self.trail.append(
                (getattr(func, "__name__", str(func)), *(tuple(tensor.shape) for tensor in made))
            )
        if func.__name__ in _ADDITIONS and len(args) == len(tensors) == 2 and not kwargs:
            for mine, other in (args, args[::-1]):
                if id(mine) in self._written and mine.shape == other.shape:
                    written = self._written[id(mine)]
                    self._added.append(_Added(written, id(other), result is mine))

    def hooks(self, path: str) -> tuple[Callable, Callable]:
        """A pre-hook and a hook for one module."""

        def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
            self._calls[path] += 1
            if path in self.paths:
                if threading.get_ident() != self._thread or _is_forked():
                    self.threaded.add(path)
                if _settings(module) != self._settings[path]:
                    self.changed.add(path)
                if len(args) + len(kwargs) > 1 + getattr(module, "transposed", False):
                    self.given.add(path)
                self._inside.append(path)
                self._convolved = []
                self._before[path] = len(self._taps)
                self.macs[path] -= self._counter.macs
            if (read := _first(args, kwargs)) is not None:
                self._tap(read, Tap(path, written=False))

        def leave(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
            read = _first(args, kwargs)
            if path in self.paths:
                self._inside.remove(path)
                self.macs[path] += self._counter.macs
                self._see(path, module, read, output)
            if not isinstance(output, Tensor):
                return
            self._tap(output, Tap(path, written=True))
            mine = self._written.get(id(read))
            if mine and not mine.norms and read.dim() == self._axes[mine.site] + 2:
                self._readers.append((path, mine.site, id(read)))
            if path in self.paths:
                self._written[id(output)] = _Written(path, (), (id(output),))
            elif mine and _is_plain_norm(module):
                norms, tensors = (*mine.norms, path), (*mine.tensors, id(output))
                self._written[id(output)] = _Written(mine.site, norms, tensors)

        return enter, leave

    @property
    def calls(self) -> dict[str, int]:
        """By site, how often it ran."""
        return {path: self._calls[path] for path in self.paths}

    @property
    def sums(self) -> dict[str, Sum]:
        """By site, the sum it feeds through nothing but batch norms; only where nobody else
        reads what the site writes."""
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

    @property
    def readers(self) -> dict[str, str]:
        """Modules that read what a site writes, a batch of maps or vectors, where both run once
        and nobody else reads it -> the site."""
        return {
            path: site
            for path, site, tensor in self._readers
            if self._calls[path] == self._calls[site] == 1 and self._uses[tensor] == 1
        }

    def _see(self, path: str, module: nn.Module, read: Tensor | None, written: object) -> None:
        sizes = self.sizes.setdefault(path, [])
        if read is None or not isinstance(written, Tensor):
            return
        if is_functorch_wrapped_tensor(read):  # it cannot be kept
            self.transformed.add(path)
            return
        if not any(map(torch.is_autocast_enabled, AUTOCAST)):
            self.types[path] = read.dtype
        axes, transposed = self._axes[path], getattr(module, "transposed", False)
        # subtle: some layers convolve at more positions than they put out
        grid = self._convolved[0] if len(self._convolved) == 1 else written
        grid = read if transposed else grid
        if not axes:
            images, spots = math.prod(written.shape[:-1]), 1
        elif grid.dim() == axes + 2:
            images, spots = len(written), math.prod(grid.shape[2:])
        else:  # one image by itself
            images, spots = 1, math.prod(grid.shape[1:])
        self.positions[path] = self.positions.get(path, 0) + images * spots
        if read.dim() == axes + 2 or (not axes and read.dim() > 2):
            sizes.append(
                Size(*(tuple(t.shape[2:]) if axes else () for t in (read, written)), images)
            )

    def _tap(self, tensor: Tensor, tap: Tap) -> None:
        if self._inside and tap.path not in self.paths:  # such parts go when a site is baked
            return
        self._alive.append(tensor)
        self._taps.append((id(tensor), tap))


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


def _first(args: tuple, kwargs: dict) -> Tensor | None:
    """The first argument of a module's call, if it is a tensor."""
    value = first_given(args, kwargs)
    return value if isinstance(value, Tensor) else None


def _settings(layer: nn.Module) -> list[object]:
    """How a layer moves over its input."""
    names = ("stride", "padding", "dilation", "groups", "padding_mode", "output_padding")
    return [getattr(layer, name, None) for name in names]


def _is_forked() -> bool:
    """Whether `torch.jit.fork` is among the callers."""
    frame = sys._getframe()
    while frame and frame.f_code is not torch.jit.fork.__code__:
        frame = frame.f_back
    return frame is not None


def _version(tensor: Tensor) -> int | None:
    """How often a tensor has been changed in place, where PyTorch counts that."""
    return None if tensor.is_inference() else tensor._version


def _is_plain_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm with fixed statistics, and nothing else."""
    if isinstance(module, loaded("timm.layers:BatchNormAct2d")):
        return isinstance(module.act, nn.Identity) and module.running_var is not None
    return type(module) is nn.BatchNorm2d and module.running_var is not None
