"""Walk networks over all calibration batches at once, stopping at every site.

Each forward pass runs as a coroutine (a greenlet) that a hook suspends when it reaches a site.
All batches that get there are brought to the same site; the caller looks at what it reads and
writes, may change the weights there, and the walk goes on. So every module runs exactly once
per batch and network, whatever the number of sites; activations live as long as the network's
own forward keeps them; and any `nn.Module` will do, whether or not it can be traced. Each pass
has modules of its own, which share parameters and buffers: what some modules keep for others to
read later in the pass is not mixed up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from greenlet import GreenletExit, greenlet
from torch import Tensor, nn

from ..support.randomness import Draws
from .calls import Batch
from .copies import shared_copy
from .thread_state import ThreadState


@dataclass(frozen=True)
class Tap:
    """A value to keep: what a module reads (its first argument) or writes, in its only call."""

    path: str
    written: bool


@dataclass(frozen=True)
class Stop:
    """One call of one site, in every batch that comes by.

    Attributes:
        path: the site's module path; None at the end of the walk.
        pairs: per batch, what the site reads in the network that is being changed (or in the
            only one), and what it writes in the original. At the end, the networks' outputs.
        kept: per batch, what the site's tap got in the same two networks, None where the batch
            did not come by, or what they got differs in shape; empty without a tap.
    """

    path: str | None
    pairs: list[tuple[Tensor, Tensor]]
    kept: list[tuple[Tensor | None, Tensor | None]]


def walk(
    model: nn.Module,
    paths: Sequence[str],
    batches: Sequence[Batch],
    changed: nn.Module | None = None,
    taps: Mapping[str, Tap] | None = None,
) -> Iterator[Stop]:
    """Yield a `Stop` at every call of a site, in execution order, and one at the end.

    Where batches take different ways, those that wait at the first of the sites stop there and go
    on, while the others wait.

    Args:
        model: the original network, in eval mode.
        paths: the sites' module paths, the same in both networks, in execution order.
        batches: inputs; all are in flight at once, so their number bounds the memory held.
        changed: a network run side by side. It waits *before* each site, so its weights
            there can still be set.
        taps: by site, a value computed before it that is wanted there.
    """
    taps, order = taps or {}, {path: index for index, path in enumerate(paths)}
    with ExitStack() as stack:
        rows = [_runs(model, batches, paths, taps, after=True)]
        if changed is not None:
            rows.append(_runs(changed, batches, paths, taps, after=False))
        stack.callback(_kill, rows)
        waiting = [[run.advance() for run in row] for row in rows]
        while ahead := {halt.path for row in waiting for halt in row if halt}:
            path = min(ahead, key=order.__getitem__)
            here = [[bool(halt and halt.path == path) for halt in row] for row in waiting]
            both = [index for index, came in enumerate(zip(*here, strict=True)) if all(came)]
            pairs = [_pair(waiting[-1][index], waiting[0][index]) for index in both]
            kept = [
                _both(rows[-1][index].kept.pop(path, None), rows[0][index].kept.pop(path, None))
                for index in both
                if path in taps
            ]
            passing = [
                (row, at, index)
                for row, at, came in zip(rows, waiting, here, strict=True)
                for index in range(len(row))
                if came[index]
            ]
            for _, at, index in passing:
                at[index] = None
            if pairs:
                yield Stop(path, pairs, kept)
            del pairs, kept
            for row, at, index in passing:
                at[index] = row[index].advance()
        outputs = [[run.output for run in row] for row in (rows[-1], rows[0])]
        yield Stop(None, list(zip(*outputs, strict=True)), [])


def _runs(
    network: nn.Module,
    batches: Sequence[Batch],
    paths: Sequence[str],
    taps: Mapping[str, Tap],
    after: bool,
) -> list[_Run]:
    """A run of every batch. What networks draw at random is the same in all that run it."""
    return [
        _Run(network, batch, paths, taps, after, Draws(index))
        for index, batch in enumerate(batches)
    ]


def _pair(changing: _Halt, original: _Halt) -> tuple[Tensor, Tensor]:
    """What the changed network reads, and what the original has written.

    A network that chooses what to look at (a detector) may choose otherwise once it is changed:
    then what the original reads, which is right in itself.
    """
    same = changing.read.shape == original.read.shape
    return (changing if same else original).read, original.written


def _both(ours: Tensor | None, theirs: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """What a tap got in two networks, if both are of one shape."""
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return None, None
    return ours, theirs


@dataclass(frozen=True)
class _Halt:
    """Where a run is suspended: at which site, what that reads, and what it has written."""

    path: str
    read: Tensor
    written: Tensor | None


class _Run(greenlet):
    """One forward pass of one batch, suspended after sites or before them.

    Attributes:
        kept: what taps got, by site.
        output: of the network, once it has ended.
    """

    def __init__(
        self,
        network: nn.Module,
        batch: Batch,
        paths: Sequence[str],
        taps: Mapping[str, Tap],
        after: bool,
        draws: Draws,
    ):
        super().__init__(self._forward)
        self._network, self._batch = shared_copy(network), batch
        self._state, self._draws = replace(ThreadState.taken(), grad=False), draws
        self.kept: dict[str, Tensor] = {}
        self.output: object = None
        for path, tap in taps.items():
            self._listen(tap.path, partial(self._keep, path), tap.written)
        for path in paths:
            self._listen(path, partial(self._suspend, path), after)

    def advance(self) -> _Halt | None:
        """Run to the next stop; None at the end."""
        # subtle: grad mode and the like belong to the thread: every run finds its own again
        with self._state.active(), self._draws.active():
            halt = self.switch()
        return None if self.dead else halt

    def kill(self) -> None:
        """Unwind the network's forward where it is suspended."""
        if self and not self.dead:
            with self._state.active():
                self.throw(GreenletExit)

    def _forward(self) -> None:
        network, self._network = self._network, None  # subtle: its hooks hold this run
        self.output = self._batch.forward(network)

    def _listen(self, path: str, hook: Callable, after: bool) -> None:
        module = self._network.get_submodule(path)
        listen = module.register_forward_hook if after else module.register_forward_pre_hook
        listen(hook, with_kwargs=True)

    def _keep(
        self, path: str, module: nn.Module, args: tuple, kwargs: dict, output: Tensor | None = None
    ) -> None:
        self.kept[path] = first_given(args, kwargs) if output is None else output

    def _suspend(
        self, path: str, module: nn.Module, args: tuple, kwargs: dict, output: Tensor | None = None
    ) -> None:
        self._state = ThreadState.taken()
        self.parent.switch(_Halt(path, first_given(args, kwargs), output))


def first_given(args: tuple, kwargs: dict) -> Any:
    """The first argument of a module's call: what it reads."""
    return args[0] if args else next(iter(kwargs.values()), None)


def _kill(rows: list[list[_Run]]) -> None:
    for row in rows:
        for run in row:
            run.kill()
