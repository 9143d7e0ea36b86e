"""How images become inputs of a network: settled once, before anything runs."""

from __future__ import annotations

import torch
from pydantic import ValidationError
from torch import nn

from ..errors import ConvswapError, problems
from ..network.calls import read_batch
from ..network.copies import dry_run
from ..record import Preprocess, record_of, remember
from ..support.progress import Note, unheard
from .arrays import LARGEST, ArrayTransform, arrangements, by, plain
from .images import first_array, native_size
from .networks import input_channels


def settle_preprocess(
    model: nn.Module,
    source: str | None = None,
    *,
    input_size: tuple[int, ...] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    note: Note = unheard,
) -> Preprocess:
    """What is said, else what the network says, else what fits; the network remembers it.

    Args:
        source: the images that will be read, whose own size is taken where nothing is known.
            Arrays are taken as they are, unless the network is a converted one, which goes on
            reading them as it did.
        input_size: `(channels, height, width)` of images, or the shape of any other input.
        mean, std: one number, or one per channel.
        note: told what had to be assumed.

    Raises:
        ConvswapError: what was said does not fit the network, or no input can be like that.
    """
    channels, before = input_channels(model), record_of(model).preprocess
    shown = ",".join(map(str, input_size or ()))
    if input_size and before and len(input_size) != len(before.input_size):
        wanted = ",".join(map(str, before.input_size))
        raise ConvswapError(f"the input size {shown} is not of the kind {wanted}")
    if input_size and len(input_size) == 3 and input_size[0] != channels:
        raise ConvswapError(
            f"the input size {shown} has {input_size[0]} channels, the network takes {channels}"
        )
    try:
        known = (
            _of_arrays(model, source, mean=mean, std=std, note=note)
            or record_of(model).preprocess
            or _assumed(model, source, input_size=input_size, mean=mean, std=std, note=note)
        )
        said: dict[str, object] = {"input_size": input_size} if input_size else {}
        channels = known.model_copy(update=said).channels
        for name, values in (("mean", mean), ("std", std)):
            if values and max(values) > 1 and (source is None or first_array(source) is None):
                raise ConvswapError(
                    f"{name} is of values 0..1 in images, not {max(values):g}",
                    do="divide it by 255",
                )
            if values:
                said[name] = _per_channel(name, values, channels)
        preprocess = Preprocess.model_validate(known.model_dump() | said)
    except ValidationError as error:
        raise ConvswapError(f"impossible input: {problems(error)}") from None
    remember(model, preprocess=preprocess)
    return preprocess


def _of_arrays(
    model: nn.Module, source: str | None, *, note: Note, **said: tuple[float, ...] | None
) -> Preprocess | None:
    """How arrays are read, if the source holds such and it is not settled: what becomes of their
    numbers is noted, and the network tried on one of them."""
    record = record_of(model)
    if source is None or (record.plans and record.preprocess):
        return None
    array = first_array(source)
    if array is None:
        return None
    name = array.dtype.name
    if name in LARGEST:
        note(f"values of type {name} are divided by {LARGEST[name]}")
    if missing := [name for name, values in said.items() if not values]:
        note(
            f"arrays of {by(array.shape)} are taken without {' and '.join(missing)}: say otherwise "
            "with --mean, --std"
        )
    problem = None
    for arranged in arrangements(array):
        preprocess = plain(arranged.shape)
        # subtle: two, for a layer takes one without an axis of channels for one without samples
        two = torch.stack([ArrayTransform(preprocess)(arranged)] * 2)
        try:
            dry_run(model, read_batch(model, two), lambda network, batch: batch.run(network))
        except ConvswapError as error:
            problem = problem or error
        else:
            if arranged is not array:
                note(f"arrays of {by(array.shape)} are read as {by(arranged.shape)}")
            return preprocess
    raise problem


def _assumed(
    model: nn.Module, source: str | None, *, note: Note, **said: tuple[float, ...] | None
) -> Preprocess:
    """Preprocessing of a network that says nothing of it: what was not `said` is noted."""
    channels, plans = input_channels(model), record_of(model).plans
    planned = plans[-1].input_size if plans else None
    sure = said["input_size"] or planned
    native = native_size(source, channels) if source and not sure else None
    size = said["input_size"] or planned or native or (channels, 224, 224)
    if len(size) != 3:
        assumed = plain(size)
    else:
        middle = {} if size[0] == 3 else {"mean": (0.5,) * size[0], "std": (0.5,) * size[0]}
        assumed = Preprocess(input_size=size, **middle)
    parts = [] if sure else [f"input size {'x'.join(map(str, size))}"]
    if source:
        parts += [f"{name} {getattr(assumed, name)}" for name in ("mean", "std") if not said[name]]
    if parts:
        options = "--input-size, --mean, --std" if source else "--input-size"
        note(f"assumed {', '.join(parts)}: say otherwise with {options}")
    return assumed


def _per_channel(name: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise ConvswapError(
            f"{name} takes one number, or {channels}, one per channel, "
            f"not {','.join(f'{value:g}' for value in values)}"
        )
    return values * channels if len(values) == 1 else values
