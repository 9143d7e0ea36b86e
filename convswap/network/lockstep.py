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
from dataclasses import dataclass

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from torch import Tensor, nn

from ..errors import ConversionError


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
    batches: Sequence[Tensor],
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
        runs = [[_Run(model) for _ in batches]]
        if changed is not None:
            watch(changed, after=False)
            runs.append([_Run(changed) for _ in batches])
        stack.callback(_kill, runs)
        sent: Sequence[Tensor] | None = batches
        while True:
            # subtle: grad mode belongs to the thread, so it is set here and not across a yield
            with torch.no_grad():
                states = [_advance(row, sent) for row in runs]
            running = not runs[0][0].dead
            if any(run.dead is running for row in runs for run in row):
                raise ConversionError("the network takes another way through its layers per batch")
            if not running:
                last = states[-1]
                yield Stop(None, list(zip(last, states[0], strict=True)), [])
                return
            reached = {state[0] for row in states for state in row}
            if len(reached) > 1:
                raise ConversionError(
                    "batches take different ways through the network",
                    where=", ".join(sorted(reached)),
                )
            pairs = [
                (read[1], written[2]) for read, written in zip(states[-1], states[0], strict=True)
            ]
            path = reached.pop()
            kept = [
                (read.kept.pop(path, None), written.kept.pop(path, None))
                for read, written in zip(runs[-1], runs[0], strict=True)
                if path in taps
            ]
            del states
            yield Stop(path, pairs, kept)
            del pairs, kept
            sent = None


class _Run(greenlet):
    """One forward pass of one batch, suspended at sites; `kept` holds what taps got, by site."""

    def __init__(self, network: nn.Module):
        super().__init__(network)
        self.kept: dict[str, Tensor] = {}


def _advance(row: Sequence[_Run], sent: Sequence[Tensor] | None) -> list:
    """Let every batch run to its next stop; the first time, on a copy of its input."""
    if sent is None:
        return [run.switch() for run in row]
    return [run.switch(batch.clone()) for run, batch in zip(row, sent, strict=True)]


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
            read = _read(args, kwargs)
            device = read.device.type
            autocast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
            torch.set_autocast_enabled(device, False)
            run.parent.switch((path, read, output))
            # subtle: like grad mode, autocast belongs to the thread; give it back to this run
            torch.set_autocast_enabled(device, autocast[0])
            torch.set_autocast_dtype(device, autocast[1])

    return suspend


def _kill(runs: list[list[_Run]]) -> None:
    for row in runs:
        for run in row:
            if run and not run.dead:
                run.throw(GreenletExit)
