"""Open what arguments and options name: networks, images, budgets, targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
import yaml
from pydantic import ValidationError
from torch import Tensor, nn

from .. import artifact
from ..errors import ConvswapError, ModelError, problems
from ..inputs.images import Images, native_size, open_images
from ..inputs.networks import input_channels, open_model, open_teacher
from ..network.memory import free_bytes, in_flight_bytes
from ..plans import Budget, Fit
from ..record import Preprocess, record_of, remember
from ..results import evaluation
from ..runtimes import TARGETS, Target, open_target
from ..runtimes.machine import check_device
from .report import note


def open_network(
    name: str,
    *,
    architecture: str | None = None,
    weights: str | None = None,
    random_weights: bool = False,
    seed: int = 0,
    model_arg: list[str] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> nn.Module:
    """The network a MODEL argument names, on its device; `kwargs` adds to `model_arg`."""
    check_device(device)
    if threads:
        torch.set_num_threads(threads)
    kwargs = _key_values(model_arg or []) | dict(kwargs or {})
    if is_artifact(name):
        if weights or random_weights:
            raise ModelError(
                "an artifact folder has its own weights", do="omit --weights and --random-weights"
            )
        base = None
        if architecture:
            base = open_model(architecture, random_weights=True, kwargs=kwargs)
        model = artifact.load(name, base)
    else:
        model = open_model(
            name, weights=weights, random_weights=random_weights, seed=seed, kwargs=kwargs
        )
        if not weights and not random_weights and record_of(model).base.name == "code":
            note(f"no --weights given: {name} is taken with the weights its factory gives it")
    return model.to(device)


def open_artifact(
    folder: str,
    architecture: str | None,
    model_arg: list[str] | None,
    device: str = "cpu",
    threads: int | None = None,
) -> nn.Module:
    """The network of an artifact folder, on its device."""
    if not is_artifact(folder):
        raise ConvswapError(f"{folder} is not an artifact folder", do="make one with convert")
    return open_network(
        folder, architecture=architecture, model_arg=model_arg, device=device, threads=threads
    )


def open_original(
    network: nn.Module,
    architecture: str | None,
    weights: str | None,
    model_arg: list[str] | None,
    device: str,
) -> nn.Module:
    """The network that an artifact's was made from, on its device."""
    kwargs = _key_values(model_arg or [])
    base = record_of(network).base
    teacher = open_teacher(base, architecture=architecture, weights=weights, kwargs=kwargs)
    return teacher.to(device)


def settle_preprocess(
    model: nn.Module,
    source: str | None = None,
    input_size: str | None = None,
    mean: str | None = None,
    std: str | None = None,
) -> Preprocess:
    """How images become inputs: what is said, else what the network says, else what fits."""
    known = record_of(model).preprocess
    if known is None:
        channels = input_channels(model)
        plans = record_of(model).plans
        sure = input_size or plans
        native = native_size(source, channels) if source and not sure else None
        size = plans[-1].input_size if plans else native or (channels, 224, 224)
        known = Preprocess(input_size=size)
        if channels == 1:
            known = known.model_copy(update={"mean": (0.5,), "std": (0.5,)})
        assumed = [] if sure else [f"input size {'x'.join(map(str, known.input_size))}"]
        if source:
            assumed += [] if mean else [f"mean {known.mean}"]
            assumed += [] if std else [f"std {known.std}"]
        if assumed:
            options = "--input-size, --mean, --std" if source else "--input-size"
            note(f"assumed {', '.join(assumed)}: say otherwise with {options}")
    said: dict[str, Any] = {}
    if input_size:
        said["input_size"] = _numbers("input size", input_size, 3)
        wanted = input_channels(model)
        if said["input_size"][0] != wanted:
            raise ConvswapError(
                f"the input size {input_size} has {said['input_size'][0]:g} channels, "
                f"the network takes {wanted}"
            )
    channels = int(said.get("input_size", known.input_size)[0])
    for key, text in (("mean", mean), ("std", std)):
        if text:
            said[key] = _numbers(key, text, channels)
    try:
        preprocess = Preprocess.model_validate(known.model_dump() | said)
    except ValidationError as error:
        raise ConvswapError(f"impossible input: {problems(error)}") from None
    remember(model, preprocess=preprocess)
    return preprocess


def calibration(
    model: nn.Module, images: Images, count: int, batch_size: int, seed: int
) -> list[tuple[Tensor, ...]]:
    """Calibration batches on the network's device, and a line when images were unreadable."""
    device = next(model.parameters()).device
    batches = [
        tuple(item.to(device) for item in batch)
        for batch in images.batches(batch_size, count=count, seed=seed)
    ]
    if images.skipped:
        note(f"skipped {images.skipped} unreadable images of {images.name}")
    return batches


def is_original(network: nn.Module, name: str) -> bool:
    """Whether a MODEL argument can be what an artifact was made from: it, or the user's code."""
    base = record_of(network).base.name
    return name == base or (base == "code" and name.rpartition(":")[0].endswith(".py"))


def is_artifact(name: str) -> bool:
    """Whether a MODEL argument is a folder, which must then be an artifact."""
    return Path(name).is_dir()


def source_images(model: nn.Module, source: str, *, held_out: bool = False) -> Images:
    """Images of a SRC argument, read as a network wants them; says so if they are to judge it
    and have fewer classes than it has."""
    images = open_images(source, record_of(model).preprocess, held_out=held_out)
    folders, classes = len(images.classes or ()), getattr(model, "num_classes", None)
    if held_out and isinstance(classes, int) and 0 < folders < classes:
        note(
            f"{source} has {folders} classes, the network {classes}: taken for its first {folders}"
        )
    return images


def _numbers(what: str, text: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) == 1 and what != "input size":
        numbers *= count
    if len(numbers) != count:
        raise ConvswapError(f"{what} takes {count} numbers separated by commas, not {text!r}")
    return numbers


def _key_values(pairs: list[str]) -> dict[str, Any]:
    if bad := [pair for pair in pairs if "=" not in pair]:
        raise ConvswapError(f"--model-arg takes KEY=VALUE, not {bad[0]!r}")
    try:
        return {key: yaml.safe_load(value) for key, _, value in (p.partition("=") for p in pairs)}
    except yaml.YAMLError:
        raise ConvswapError(f"--model-arg takes KEY=VALUE in YAML, not {pairs}") from None


def quality(model: nn.Module, source: str) -> Callable[[nn.Module], dict[str, float]]:
    """What measures a network on images: accuracy, or closeness to `model` without labels."""
    images = source_images(model, source, held_out=True)
    return lambda network: evaluation.quality(network, model, images)


def budget(macs: float | None, params: float | None, latency: float | None) -> Budget:
    """The budget the options spell, checked."""
    if macs is None and params is None and latency is None:
        raise ConvswapError(
            "no budget given", do="say --macs 0.5, --params 0.5, --latency 0.5, or --plan FILE"
        )
    try:
        return Budget(macs=macs, params=params, latency=latency)
    except ValidationError as error:
        raise ConvswapError(f"budget out of range: {problems(error)}") from None


def timing_target(
    budget: Budget | None, name: str, threads: int | None, device: str, dtype: str, batch: int
) -> Target | None:
    """The target a budget of latency is for; opened early, so that it fails early."""
    if budget is None or budget.latency is None:
        if (name, dtype, batch) != ("eager", "float32", 1):
            raise ConvswapError("--target, --dtype and --batch go with --latency")
        return None
    return open_target(name, threads=threads, device=device_for(name, device), dtype=dtype)


def device_for(target: str, device: str) -> str:
    """Where a target runs what is fitted on a device."""
    return "cpu" if target in TARGETS and TARGETS[target].cpu_only else device


def fit_and_batches(
    model: nn.Module,
    data: str | None,
    fit: str | None,
    count: int,
    memory: float | None,
    batch_size: int,
    seed: int,
) -> tuple[Fit, list[tuple[Tensor, ...]]]:
    """How to fit, and the calibration batches for it (none without images)."""
    fit = fit or ("corrected" if data else "weight")
    if fit not in get_args(Fit):
        raise ConvswapError(f"unknown --fit {fit}", do=f"choose one of {', '.join(get_args(Fit))}")
    if data is None:
        if fit != "weight":
            raise ConvswapError(f"--fit {fit} needs images", do="add --data, or --fit weight")
        return fit, []
    images = source_images(model, data)
    count = within_memory(model, min(count, len(images)), memory)
    return fit, calibration(model, images, count, batch_size, seed)


def within_memory(model: nn.Module, count: int, memory: float | None = None) -> int:
    """As many of `count` images as can be in flight at once; says so if that is fewer."""
    each = 2 * in_flight_bytes(model, record_of(model).preprocess.input_size)
    free = free_bytes(next(model.parameters()).device)
    if memory is None and free is None:
        return count
    limit = free / 2 if memory is None else memory * 2**30
    fits = int(limit // each)
    if not fits:
        raise ConvswapError(
            f"--memory {limit / 2**30:.2g} is too little: one image takes {each / 2**30:.2g} GiB",
            do="allow more, or use a smaller --input-size",
        )
    if fits < count:
        note(
            f"{fits} images in place of {count}: more would hold over {limit / 2**30:.3g} GiB "
            "(--memory)"
        )
    return min(fits, count)
