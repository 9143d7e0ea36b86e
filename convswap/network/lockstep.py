"""Walk networks over all calibration batches at once, stopping at every site.

Each forward pass runs as a coroutine (a greenlet) that a hook suspends when it reaches a
site. All batches are brought to the same site; the caller looks at what it reads and writes,
may change the weights there, and the walk goes on. So every module runs exactly once per
batch and network, whatever the number of sites; activations live as long as the network's
own forward keeps them; and any `nn.Module` will do, whether or not it can be traced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from greenlet import GreenletExit, getcurrent, greenlet
from torch import Tensor, nn

from ..errors import ConversionError
from .calls import Batch
from .thread_state import ThreadState


@dataclass(frozen=True)
class Tap:
    """A value to keep: what a module reads (its first argument) or writes, in its only call."""

    path: str
    written: bool


@dataclass(frozen=True)
class Stop:
    """One call of one site, in every batch.

    Attributes:
        path: the site's module path; None at the end of the walk.
        pairs: per batch, what the site reads in the network that is being changed (or in the
            only one), and what it writes in the original. At the end, the networks' outputs.
        kept: per batch, what the site's tap got in the same two networks, None where the batch
            did not come by; empty without a tap.
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

    Args:
        model: the original network, in eval mode.
        paths: the sites' module paths, the same in both networks.
        batches: inputs; all are in flight at once, so their number bounds the memory held.
        changed: a network run side by side. It waits *before* each site, so its weights
            there can still be set.
        taps: by site, a value computed before it that is wanted there.

    Raises:
        ConversionError: if two batches take different ways through the network.
    """
    taps = taps or {}
    with ExitStack() as stack:

        def listen(module: nn.Module, hook: Callable, after: bool) -> None:
            register = module.register_forward_hook if after else module.register_forward_pre_hook
            stack.callback(register(hook, with_kwargs=True).remove)

        def watch(network: nn.Module, after: bool) -> None:
            for path, tap in taps.items():
                listen(network.get_submodule(tap.path), _keep(path, tap.written), tap.written)
            for path in paths:
                listen(network.get_submodule(path), _suspend(path, after), after)

        watch(model, after=True)
        rows = [[_Run(model, batch) for batch in batches]]
        if changed is not None:
            watch(changed, after=False)
            rows.append([_Run(changed, batch) for batch in batches])
        stack.callback(_kill, rows)
        while True:
            reached = [[run.advance() for run in row] for row in rows]
            first = reached[0][0]
            if any((halt is None) is not (first is None) for row in reached for halt in row):
                raise ConversionError("the network takes another way through its layers per batch")
            if first is None:
                outputs = [[run.output for run in row] for row in (rows[-1], rows[0])]
                yield Stop(None, list(zip(*outputs, strict=True)), [])
                return
            paths_reached = {halt.path for row in reached for halt in row}
            if len(paths_reached) > 1:
                raise ConversionError(
                    "batches take different ways through the network",
                    where=", ".join(sorted(paths_reached)),
                )
            path = first.path
            pairs = [
                (changing.read, original.written)
                for changing, original in zip(reached[-1], reached[0], strict=True)
            ]
            kept = [
                (changing.kept.pop(path, None), original.kept.pop(path, None))
                for changing, original in zip(rows[-1], rows[0], strict=True)
                if path in taps
            ]
            del reached, first
            yield Stop(path, pairs, kept)
            del pairs, kept


@dataclass(frozen=True)
class _Halt:
    """Where a run is suspended: at which site, what that reads, and what it has written."""

    path: str
    read: Tensor
    written: Tensor | None


class _Run(greenlet):
    """One forward pass of one batch, suspended at sites.

    Attributes:
        kept: what taps got, by site.
        output: of the network, once it has ended.
    """

    def __init__(self, network: nn.Module, batch: Batch):
        super().__init__(self._forward)
        self._network, self._batch = network, batch
        self._state = replace(ThreadState.taken(), grad=False)
        self.kept: dict[str, Tensor] = {}
        self.output: object = None

    def advance(self) -> _Halt | None:
        """Run to the next stop; None at the end."""
        # subtle: grad mode and the like belong to the thread: every run finds its own again
        with self._state.active():
            halt = self.switch()
        return None if self.dead else halt

    def kill(self) -> None:
        """Unwind the network's forward where it is suspended."""
        if self and not self.dead:
            with self._state.active():
                self.throw(GreenletExit)

    def suspend(self, halt: _Halt) -> None:
        """Called from within: wait until the caller asks for more."""
        self._state = ThreadState.taken()
        self.parent.switch(halt)

    def _forward(self) -> None:
        self.output = self._batch.run(self._network)


def _keep(path: str, written: bool):
    def keep(module: nn.Module, args: tuple, kwargs: dict, output: Tensor | None = None) -> None:
        run = getcurrent()
        if isinstance(run, _Run):
            run.kept[path] = output if written else _read(args, kwargs)

    return keep


def _read(args: tuple, kwargs: dict) -> Tensor:
    """The first argument of a module's call."""
    return args[0] if args else next(iter(kwargs.values()))


def _suspend(path: str, after: bool):
    def suspend(module: nn.Module, args: tuple, kwargs: dict, output: Tensor | None = None) -> None:
        run = getcurrent()
        if isinstance(run, _Run):
            run.suspend(_Halt(path, _read(args, kwargs), output))

    return suspend


def _kill(rows: list[list[_Run]]) -> None:
    for row in rows:
        for run in row:
            run.kill()
