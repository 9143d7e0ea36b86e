"""Open an artifact: nothing is trusted before it has been checked."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor, nn

from ..errors import ArtifactError, ConvswapError, reason
from ..network.calls import example_of
from ..network.copies import dry_run, in_eval_mode
from ..network.state import set_state_
from ..record import Base, Record, remember
from ..support.files import is_there
from ..support.tensors import Entry, read_tensors
from .description import WEIGHTS, header_of, read_description, weights_of
from .fit import (
    MOST,
    aliases_of,
    architecture,
    check_digests,
    check_values,
    has_run,
    place_of,
)


def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Open an artifact: the same network, in eval mode. No code of the folder is run.

    Args:
        model: the architecture before conversion, for a network of the user's own code (it is
            copied, and its weights do not matter). timm's and torchvision's are rebuilt by name.

    Raises:
        ArtifactError: the folder is damaged, hostile, from a newer version, or needs `model`.
    """
    folder = Path(folder)
    description = read_description(folder)
    record = description.record
    if model is None and record.base.name == "code":
        raise ArtifactError(
            f"{folder} holds a network of the user's own code",
            do="give its architecture: --model file.py:factory, or load(folder, model=build())",
        )
    weights = weights_of(folder, description)
    header = header_of(weights)
    try:
        restored = rebuilt(folder, record, header, model)
    except ArtifactError:
        ran = model and has_run(model, record.plans[-1].inputs, header)
        if ran is None:
            raise
        restored = rebuilt(folder, record, header, ran)
    state = read_weights(weights)
    if description.tensors:
        check_digests(state, description.tensors, str(weights))
    aliases = aliases_of(restored)
    for name, kept in aliases.items():
        state[name] = state[kept]
    set_state_(restored, state, assign=True)
    for name, kept in aliases.items():  # tie again what was tied
        setattr(*place_of(restored, name), getattr(*place_of(restored, kept)))
    check_values(restored, str(weights))
    if record.preprocess:
        try:
            size = record.preprocess.input_size
            # subtle: networks by name run without values; a hostile one must not run for real
            devices = ("meta",) if model is None and math.prod(size) > MOST else ("meta", "cpu")
            dry_run(restored, example_of(restored, size), lambda network, batch: batch.run(network),
                    devices)  # fmt: skip
        except ConvswapError as error:
            raise ArtifactError(str(error), where=str(folder)) from None
    vars(restored).pop("_convswap", None)
    record = record.model_copy(update={"base": _located(record.base, folder)})
    return remember(in_eval_mode(restored), **dict(record))


def rebuilt(
    folder: Path, record: Record, header: dict[str, Entry], model: nn.Module | None = None
) -> nn.Module:
    """The network that a folder holds the tensors of; its parameters have no values yet.

    Raises:
        ArtifactError: what the folder says leads to no network, or to one of other tensors.
    """
    try:
        return architecture(record, header, model, str(folder / WEIGHTS))
    except ArtifactError:
        raise
    except ConvswapError as error:
        raise ArtifactError(f"cannot rebuild the network: {error}", where=str(folder)) from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        return read_tensors(path)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot read {path}: {reason(error)}") from None


def _located(base: Base, folder: Path) -> Base:
    """A base whose weights file is where it is on this machine, if it is near."""
    if base.sha256 is None or base.weights is None:
        return base
    folder, named = folder.resolve(), Path(base.weights)
    near = named if not named.is_absolute() and ".." not in named.parts else Path(named.name)
    for path in (folder.parent / near, folder / near.name, folder.parent / near.name, near,
                 Path(near.name)):  # fmt: skip
        if path.name not in ("", "..") and is_there(path):
            return base.model_copy(update={"weights": str(path.absolute())})
    return base.model_copy(update={"weights": near.name})
