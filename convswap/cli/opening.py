"""Open what arguments and options name: networks, their images, the target they are for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .. import artifact
from ..errors import ConvswapError, ModelError
from ..inputs.calibration import calibration_batches
from ..inputs.images import keeps_apart, open_images
from ..inputs.names import check_artifact, is_artifact, is_function
from ..inputs.networks import open_model, open_teacher
from ..inputs.preprocess import settle_preprocess
from ..inputs.synthetic import real_or_made_up
from ..inputs.user_code import failed, open_function
from ..network.calls import example_of, noise
from ..plans import Budget, Goal, Kind
from ..record import Preprocess, record_of
from ..results import evaluation
from ..runtimes import Target, device_for, open_target
from ..runtimes.machine import check_device
from ..support import ranks
from ..support.files import user_cache
from . import console, early
from . import options as o


def open_calibrated(
    model: str,
    network: o.Network,
    data: str | None,
    images: o.Calibration,
    run: o.Run,
    target: Target | None = None,
) -> tuple[nn.Module, list[tuple[Tensor, ...]]]:
    """The network of a MODEL argument, and the batches its layers are fitted to.

    Args:
        target: where networks are timed: `--threads` are its own then, and fits use all.
    """
    dense = open_network(model, network, run if target is None else replace(run, threads=None))
    source = source_for(dense, settle(dense, data, images), data, run)
    if source is None:
        note("no --data: layers are fitted to their weights alone, which keeps less")
    batches = calibration_batches(
        dense, source, count=images.images, batch_size=images.batch_size,
        memory=images.memory, seed=run.seed, share=ranks.share(), note=note,
    )  # fmt: skip
    return dense, batches


@contextmanager
def processes(run: o.Run, sharing: bool = False) -> Iterator[o.Run]:
    """How this process runs among those that `torchrun` started, of which one speaks for all.

    Args:
        sharing: as for `ranks.joined`.
    """
    with ranks.joined(run.device, sharing) as device, ranks.company("start it again"):
        yield replace(run, device=device, quiet=run.quiet or not early.leads())


def note(text: str) -> None:
    """One line for the person, of all processes but once."""
    if early.leads():
        console.note(text)


def source_for(
    network: nn.Module, preprocess: Preprocess, data: str | None, run: o.Run = o.Run()
) -> str | None:
    """What to read for a SRC argument; images are made up for a network if it says so."""
    with console.progress(run.quiet) as progress:
        return real_or_made_up(
            data, network, preprocess, user_cache("synthetic"), seed=run.seed, progress=progress,
            note=note,
        )  # fmt: skip


def settle(
    network: nn.Module, data: str | None = None, reading: o.Reading = o.Reading()
) -> Preprocess:
    """How images become inputs of a network; says what had to be assumed."""
    return settle_preprocess(
        network, data, input_size=reading.input_size, mean=reading.mean, std=reading.std, note=note
    )


def open_network(name: str, network: o.Network, run: o.Run = o.Run()) -> nn.Module:
    """The network of a MODEL argument, on its device."""
    if not is_artifact(name):
        return open_named(
            name, weights=network.weights, random_weights=network.random_weights, seed=run.seed,
            kwargs=network.kwargs, machine=run, averaged=not network.no_ema,
            fold=network.reparameterize,
        )  # fmt: skip
    if network.weights or network.random_weights or network.reparameterize:
        raise ModelError(
            "an artifact folder has its own weights",
            do="omit --weights, --random-weights and --reparameterize",
        )
    return open_artifact(name, network, run)


def open_named(
    name: str,
    *,
    weights: str | None,
    random_weights: bool,
    seed: int,
    kwargs: Mapping[str, Any],
    machine: o.Machine,
    averaged: bool = True,
    fold: bool = False,
) -> nn.Module:
    """A network by name or file, on its device; says so if its weights are its factory's."""
    _use(machine)
    model = open_model(
        name, weights=weights, random_weights=random_weights, averaged=averaged, seed=seed,
        kwargs=kwargs, fold=fold, note=note,
    )  # fmt: skip
    if not weights and not random_weights and record_of(model).base.name == "code":
        note(f"no --weights given: {name} is taken with the weights its factory gives it")
    return model.to(machine.device)


def open_artifact(folder: str, code: o.Code, machine: o.Machine = o.Machine()) -> nn.Module:
    """The network of an artifact folder, on its device."""
    check_artifact(folder)
    _use(machine)
    base = None
    if code.architecture:
        base = open_model(code.architecture, random_weights=True, kwargs=code.kwargs)
    return artifact.load(folder, base).to(machine.device)


def open_original(network: nn.Module, original: o.Original, device: str = "cpu") -> nn.Module:
    """The network that an artifact's was made from, on its device."""
    teacher = open_teacher(
        record_of(network).base, architecture=original.architecture,
        weights=original.teacher_weights, kwargs=original.kwargs,
    )  # fmt: skip
    return teacher.to(device)


def open_pair(
    model: str, against: str | None, network: o.Network, run: o.Run
) -> tuple[nn.Module, nn.Module | None]:
    """The network of a MODEL argument, and the one it is compared with, if there is one.

    An artifact has its own weights: what is said of weights is then the other's. The network an
    artifact was made from is taken with the weights it had, unless more is said.
    """
    if against is None:
        return open_network(model, network, run), None
    none = {"weights": None, "random_weights": False}
    theirs = replace(network, **none)
    if is_artifact(model):
        theirs, network = network, replace(network, **none, reparameterize=False)
    opened = open_network(model, network, run)
    base, code = record_of(opened).base.name, against.rpartition(":")[0].endswith(".py")
    original = against == base or (base == "code" and code)
    if is_artifact(model) and original and not (theirs.random_weights or theirs.reparameterize):
        original = o.Original(
            architecture=against, model_arg=theirs.model_arg, teacher_weights=theirs.weights
        )
        return opened, open_original(opened, original, run.device)
    return opened, open_network(against, theirs, run)


def timing_target(goal: Goal, timing: o.Timing, machine: o.Machine) -> Target | None:
    """The target a budget of latency is for; opened early, so that it fails early."""
    if not isinstance(goal, Budget) or goal.latency is None:
        if timing != o.Timing():
            raise ConvswapError("--target, --dtype and --batch go with --latency")
        return None
    return open_timing(timing, machine)


def open_timing(timing: o.Timing, machine: o.Machine) -> Target:
    """What runs the networks that are fitted on a machine."""
    device = device_for(timing.target, machine.device)
    return open_target(timing.target, threads=machine.threads, device=device, dtype=timing.dtype)


def quality(
    model: nn.Module, source: str, fitted: str | None, output: Kind | None = None
) -> Callable[[nn.Module], dict[str, float]]:
    """What measures a network, each once: a function of the user's own, or images, beside `model`.

    Args:
        fitted: the images that layers are fitted to, if there are any.
    """
    same = fitted is not None and Path(source).resolve() == Path(fitted).resolve()
    if same and not keeps_apart(source):
        note("quality is judged on the images that layers are fitted to: --val names others")
    if is_function(source):
        measure = partial(_own, open_function(source), source)
    else:
        images = evaluation.open_judges(model, source, note)
        measure = evaluation.quality_beside(model, images, output)
    known: WeakKeyDictionary[nn.Module, dict[str, float]] = WeakKeyDictionary()

    def found(network: nn.Module) -> dict[str, float]:
        if network not in known:
            known[network] = measure(network)
        return known[network]

    return found


def _own(judge: Callable, name: str, network: nn.Module) -> dict[str, float]:
    """What a function of the user's own makes of a network."""
    try:
        with torch.no_grad():
            value = float(judge(network))
    except (Exception, SystemExit) as error:
        raise failed(name, error) from error
    if not math.isfinite(value):
        raise ConvswapError(f"{name} returned {value}, not a number to judge by")
    return {"own": value}


def example_images(network: nn.Module, source: str | None, preprocess: Preprocess) -> Tensor:
    """Up to 16 images of a SRC argument, or four random inputs without one (zeros of a network that
    takes whole numbers)."""
    if source is None:
        [one] = example_of(network, preprocess.input_size).tensors
        return (
            noise((4, *one.shape[1:])) if one.is_floating_point() else one.repeat_interleave(4, 0)
        )
    images = open_images(source, preprocess, note=note)
    return next(iter(images.batches(16, count=16)))[0]


def _use(machine: o.Machine) -> None:
    check_device(machine.device)
    if machine.threads:
        torch.set_num_threads(machine.threads)
