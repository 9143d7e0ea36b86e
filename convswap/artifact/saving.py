"""Write an artifact: checked as it will be read, and whole at every moment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import nn

from .. import __version__
from ..errors import ArtifactError, ConvswapError
from ..inputs.names import is_library
from ..network.alike import alike
from ..network.calls import stand_in
from ..network.copies import in_eval_mode, shared_copy
from ..network.match import tensors
from ..network.state import set_state_
from ..network.wrappers import unwrapped
from ..record import Base, Record, record_of
from ..support.files import CONFIG, check_new, claimed, named, settle
from ..support.plain import nameless, numbers_in
from ..support.tensors import Entry, digests
from .card import CARD, card_of, is_replaceable
from .description import (
    DESCRIPTION,
    FORMAT,
    WEIGHTS,
    digest_of,
    header_of,
    read_description,
    staged_as,
    weights_of,
)
from .fit import aliases_of, architecture, check_values, checked_state
from .timm_config import config_of, is_config


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    provenance: dict[str, Any] | None = None,
    force: bool = False,
) -> Path:
    """Write a converted network as a folder that `load` opens on any machine.

    What `load` would refuse is refused here. At every moment the old artifact or the new one is
    complete; other files in the folder stay, a `README.md` that a person wrote or changed as well.
    What was made from a network of timm, timm opens, too (`config.json`; see `timm_config`).

    Args:
        provenance: anything worth keeping, such as data, seed and measured figures (JSON).
        force: replace the artifact if there is one.

    Raises:
        ArtifactError: the network was not made by `convert` (or `load`), or cannot be written
            so that it can be read.
        ConvswapError: the folder exists, or another process is writing it.
    """
    model = unwrapped(model)
    record = record_of(model)
    if not record.plans:
        raise ArtifactError("nothing to save: the network was not made by convert or load")
    folder = check_new(folder, force, [DESCRIPTION])
    _check_no_links(folder)
    aliases = aliases_of(model)
    state = {
        name: tensor.detach().contiguous().cpu()
        for name, tensor in checked_state(model).items()
        if name not in aliases
    }
    check_values(model, str(folder))
    record = record.model_copy(update={"base": _portable(_rebuilding(model, record), folder)})
    try:
        content = {
            "format": FORMAT,
            "record": record.model_dump(mode="json"),
            "versions": {"convswap": __version__, "torch": torch.__version__},
            "provenance": nameless(provenance or {}),
            "tensors": digests(state),
        }
        content["digest"] = digest_of(content)
        text = json.dumps(content, indent=1) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"provenance and arguments must be JSON: {error}") from None
    with claimed(folder) as room, named(folder, room):
        new = room / "new"
        new.mkdir()
        # subtle: safetensors' own writer makes files that only their owner can read
        (new / WEIGHTS).write_bytes(to_bytes(state, metadata={"format": "pt"}))
        (new / DESCRIPTION).write_text(text, encoding="utf-8")
        size = sum(tensor.nbytes for tensor in state.values())
        card = card_of(record, size, content["provenance"].get("distilled"))
        (new / CARD).write_text(card, encoding="utf-8")
        if config := config_of(model, record):
            text = json.dumps(config, indent=1) + "\n"
            (new / CONFIG).write_text(text, encoding="utf-8")
        read_description(new)
        header_of(new / WEIGHTS)
        for path in (*new.iterdir(), new):
            settle(path)
        if folder.is_dir():
            _replace(folder, new, staged_as(content["digest"]))
        else:
            new.rename(folder)
            settle(folder.absolute().parent)
    return folder


def _check_no_links(folder: Path) -> None:
    for name in (WEIGHTS, DESCRIPTION):
        if (folder / name).is_symlink():
            raise ArtifactError(f"{folder / name} is a symbolic link", do="choose another name")


def _replace(folder: Path, new: Path, staged: str) -> None:
    """Put new files in the place of old ones. The description's rename decides which artifact it
    is: until the weights have followed, `load` finds them under another name."""
    if left := [*folder.glob(staged_as("*"))]:  # a run was killed in between
        known = weights_of(folder, read_description(folder))
        if known in left:
            _follow(folder, known)
        for path in left:
            path.unlink(missing_ok=True)
    for source, target in (
        (new / WEIGHTS, folder / staged), (new / DESCRIPTION, folder / DESCRIPTION),
    ):  # fmt: skip
        os.replace(source, target)
        settle(folder)
    _follow(folder, folder / staged)
    if is_replaceable(folder / CARD):
        os.replace(new / CARD, folder / CARD)
    if (new / CONFIG).exists() and not os.path.lexists(folder / CONFIG):
        os.replace(new / CONFIG, folder / CONFIG)
    settle(folder)


def _follow(folder: Path, staged: Path) -> None:
    """The weights follow the description. What timm knows of the old ones goes first: it finds
    nothing, until there is all of the new, in place of a mixture."""
    if is_config(folder / CONFIG):
        (folder / CONFIG).unlink()
        settle(folder)
    os.replace(staged, folder / WEIGHTS)
    settle(folder)


def _rebuilding(model: nn.Module, record: Record) -> Base:
    """The base that rebuilds a network exactly: the one it was opened as, one that timm knows it
    by, or else `code`."""
    known, tried = record.base, [record.base]
    config, name = getattr(model, "pretrained_cfg", None) or {}, known.name
    if not is_library(name) and "architecture" in config:
        name = f"timm:{config['architecture']}"
    tried.append(known.model_copy(update={"folded": True}))  # by a call of timm's own
    for arguments in ((), ("num_classes",), ("in_chans",), ("num_classes", "in_chans")):
        kwargs = {name: getattr(model, name) for name in arguments if hasattr(model, name)}
        tried.append(known.model_copy(update={"name": name, "kwargs": known.kwargs | kwargs}))
    for base in tried:
        if is_library(base.name) and _rebuilds(model, base, record):
            return base
    try:
        numbers_in(known.kwargs)
    except ValueError:
        known = known.model_copy(update={"kwargs": {}})
    return known.model_copy(update={"name": "code"})


def _rebuilds(model: nn.Module, base: Base, record: Record) -> bool:
    entries = {name: Entry.of(tensor) for name, tensor in checked_state(model).items()}
    try:
        base = Base.model_validate_json(base.model_dump_json())
        rebuilt = architecture(record.model_copy(update={"base": base}), entries)
    except (ConvswapError, ValueError):
        return False
    return repr(rebuilt) == repr(model) and _puts_out_the_same(model, rebuilt, record)


@torch.no_grad()
def _puts_out_the_same(model: nn.Module, rebuilt: nn.Module, record: Record) -> bool:
    """Whether a network that consists of the same layers computes the same with them, which need
    not follow: `forward` may be the user's own. Where the first does not run on noise, or puts out
    NaN or infinity, nobody can tell."""
    model = in_eval_mode(shared_copy(model))
    try:
        example = stand_in(model, record.plans[-1].inputs)
        written = tensors(example.forward(model))
    except Exception:  # of the network's own code
        return True
    if not all(tensor.isfinite().all() for tensor in written):
        return True
    set_state_(rebuilt, checked_state(model), assign=True)
    return alike(model, in_eval_mode(rebuilt).to(example.tensors[0].device), example)


def _portable(base: Base, folder: Path) -> Base:
    """A base whose weights file is named as seen from beside the artifact, or by name alone: a
    folder says nothing of the machine it was made on."""
    if base.sha256 is None:
        return base
    path, beside = Path(base.weights), folder.absolute().parent.resolve()
    near = path.relative_to(beside) if path.is_relative_to(beside) else path.name
    return base.model_copy(update={"weights": Path(near).as_posix()})
