"""What comes out: a folder with the weights (safetensors) and how to rebuild the network (JSON)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import safetensors
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from . import __version__
from .errors import ArtifactError, ConvswapError, ModelError, problems
from .inputs.networks import build_base
from .network.copies import check_finite
from .network.replace import install_
from .record import Base, Record, record_of, remember
from .support.files import check_new, new_folder

WEIGHTS, DESCRIPTION = "model.safetensors", "convswap.json"
FORMAT = 1


class _Description(BaseModel):
    """The content of `convswap.json`."""

    model_config = ConfigDict(extra="forbid")

    format: int
    record: Record
    versions: dict[str, str] = {}
    provenance: dict[str, Any] = {}


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    provenance: dict[str, Any] | None = None,
    force: bool = False,
) -> Path:
    """Write a converted network as a folder that `load` opens on any machine.

    Args:
        provenance: anything worth keeping, such as data, seed and measured figures (JSON).
        force: replace the folder if it exists.

    Raises:
        ArtifactError: the network was not made by `convert` (or `load`).
        ConvswapError: the folder exists.
    """
    record = record_of(model)
    if not record.plans:
        raise ArtifactError("nothing to save: the network was not made by convert or load")
    folder = check_new(folder, force, folder=True)
    if folder.exists() and any(folder.iterdir()) and not (folder / DESCRIPTION).exists():
        raise ArtifactError(f"{folder} holds something else", do="choose another name")
    if record.base.name == "code":
        record = record.model_copy(update={"base": _recognise(model, record)})
    description = _Description(
        format=FORMAT,
        record=record,
        versions={"convswap": __version__, "torch": torch.__version__},
        provenance=provenance or {},
    )
    aliases = _aliases(model)
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()
             if name not in aliases}  # fmt: skip
    with new_folder(folder) as temporary:
        # subtle: safetensors' own writer makes files that only their owner can read
        (temporary / WEIGHTS).write_bytes(to_bytes(state, metadata={"format": "pt"}))
        text = json.dumps(description.model_dump(mode="json"), indent=1)
        (temporary / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
    return folder


def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Open an artifact: the same network, in eval mode. No code of the folder is run.

    Args:
        model: the architecture before conversion, for a network of the user's own code (it is
            copied, and its weights do not matter). timm's and torchvision's are rebuilt by name.

    Raises:
        ArtifactError: the folder is damaged, hostile, from a newer version, or needs `model`.
    """
    folder = Path(folder)
    record = read_description(folder).record
    if model is None and record.base.name == "code":
        raise ArtifactError(
            f"{folder} holds a network of the user's own code",
            do="give its architecture: --model file.py:factory, or load(folder, model=build())",
        )
    try:
        # subtle: tensors in the mapped file are not aligned as fresh ones are; sums would differ
        state = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"cannot read {folder / WEIGHTS}: {error}") from None
    try:
        if model is None:
            skeleton = _skeleton(record)
            _check_fit(skeleton, state, folder)
            real = any(b.is_meta for n, b in skeleton.named_buffers() if n not in state)
            restored = _install_all(build_base(record.base), record) if real else skeleton
        else:
            restored = _install_all(copy.deepcopy(model), record)
            _check_fit(restored, state, folder)
    except ArtifactError:
        raise
    except ConvswapError as error:
        raise ArtifactError(f"cannot rebuild the network: {error}", where=str(folder)) from None
    aliases = _aliases(restored)
    for name, kept in aliases.items():
        state[name] = state[kept]
    restored.load_state_dict(state, assign=True)
    for name, kept in aliases.items():  # tie again what was tied
        setattr(*_place(restored, name), getattr(*_place(restored, kept)))
    try:
        check_finite(restored)
    except ModelError as error:
        raise ArtifactError(str(error), where=str(folder / WEIGHTS)) from None
    vars(restored).pop("_convswap", None)
    return remember(restored.eval(), **dict(record))


def read_description(folder: str | Path) -> _Description:
    """What `convswap.json` says, checked.

    Raises:
        ArtifactError: it is missing, not JSON, of a newer format, or has unknown entries.
    """
    path = Path(folder) / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"not an artifact folder: cannot read {path} ({error})") from None
    if isinstance(content, dict) and content.get("format") != FORMAT:
        raise ArtifactError(
            f"{path} has format {content.get('format')!r}; this version reads {FORMAT}",
            do="update convswap",
        )
    try:
        return _Description.model_validate(content)
    except ValidationError as error:
        raise ArtifactError(f"invalid {path}: {problems(error)}") from None


def _skeleton(record: Record) -> nn.Module:
    """The structure, on the meta device: nothing is allocated before all shapes are known to fit.

    Some architectures compute with values as they are built; those are built for real.
    """
    try:
        with torch.device("meta"):
            return _install_all(build_base(record.base), record)
    except ModelError:
        return _install_all(build_base(record.base), record)


def _install_all(model: nn.Module, record: Record) -> nn.Module:
    for plan in record.plans:
        install_(model, plan)
    return model


def _check_fit(model: nn.Module, state: dict[str, Tensor], folder: Path) -> None:
    aliases = _aliases(model)
    wanted = {n: t for n, t in model.state_dict().items() if n not in aliases}
    missing, unknown = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    wrong = {
        name
        for name in wanted.keys() & state.keys()
        if wanted[name].shape != state[name].shape
        or wanted[name].is_floating_point() != state[name].is_floating_point()
    }
    for names, what in ((missing, "missing"), (unknown, "unknown"), (wrong, "of another shape")):
        if names:
            first = sorted(names)[0]
            raise ArtifactError(
                f"{len(names)} tensors are {what}, such as {first}", where=str(folder / WEIGHTS)
            )


def _aliases(model: nn.Module) -> dict[str, str]:
    """Names of parameters and buffers that are the same as one named before -> that name."""
    first: dict[int, str] = {}
    same = {}
    for name in model.state_dict():
        kept = first.setdefault(id(getattr(*_place(model, name))), name)
        if kept != name:
            same[name] = kept
    return same


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module a tensor belongs to, and its name there."""
    owner, _, attribute = name.rpartition(".")
    return model.get_submodule(owner), attribute


def _recognise(model: nn.Module, record: Record) -> Base:
    """The timm name that rebuilds this network exactly, or `code` if there is none."""
    config = getattr(model, "pretrained_cfg", None) or {}
    name = config.get("architecture")
    if not name:
        return record.base
    kwargs = {}
    for argument, default in (("num_classes", config.get("num_classes")),
                              ("in_chans", (config.get("input_size") or [3])[0])):  # fmt: skip
        if getattr(model, argument, default) != default:
            kwargs[argument] = getattr(model, argument)
    base = record.base.model_copy(update={"name": f"timm:{name}", "kwargs": kwargs})
    try:
        with torch.device("meta"):
            rebuilt = _install_all(build_base(base), record)
    except (ModelError, ConvswapError):
        return record.base
    shapes = {n: t.shape for n, t in rebuilt.state_dict().items()}
    same = shapes == {n: t.shape for n, t in model.state_dict().items()}
    return base if same and repr(rebuilt) == repr(model) else record.base
