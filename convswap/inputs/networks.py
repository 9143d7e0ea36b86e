"""Networks going in: timm and torchvision by name, the user's own code by file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
import torchvision
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from ..errors import ModelError
from ..network.copies import check_finite
from ..record import Base, Preprocess, remember
from .hub import hub

_NAME = re.compile(r"[\w.\-]+")
_REFUSED = {"checkpoint_path", "cache_dir", "scriptable", "exportable", "weights", "progress"}


def open_model(
    name: str,
    *,
    weights: str | Path | None = None,
    random_weights: bool = False,
    seed: int = 0,
    kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A network with its weights, in eval mode, that knows where it came from.

    Args:
        name: `timm:NAME`, `torchvision:NAME`, `path/to/file.py:factory` or
            `package.module:factory`. The last two run the user's own code.
        weights: a `.safetensors` file, or a checkpoint that `torch.load(weights_only=True)`
            opens. Without it, timm and torchvision fetch their pretrained weights, and a
            factory's network is taken as it is built.
        random_weights: initialise from `seed` instead, for timing and trials.
        kwargs: arguments of the factory, such as `num_classes`.

    Raises:
        ModelError: the name is unknown, or the weights are missing, do not fit, or hold NaN.
    """
    kwargs = dict(kwargs or {})
    source = "pretrained" if _is_library(name) and not random_weights else f"seed:{seed}"
    if weights is not None:
        source = str(Path(weights).resolve())
    torch.manual_seed(seed)
    model = _build(name, kwargs, pretrained=source == "pretrained")
    digest = None
    if weights is not None:
        load_weights_(model, Path(weights))
        digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    model.eval()
    check_finite(model)
    base = Base(
        name=name if _is_library(name) else "code", kwargs=kwargs, weights=source, sha256=digest
    )
    return remember(model, base=base, preprocess=declared_preprocess(model))


def build_base(base: Base) -> nn.Module:
    """The architecture an artifact starts from, without weights. Library names only.

    Raises:
        ModelError: the name or an argument is not one that can be trusted or built.
    """
    if not _is_library(base.name) or not _NAME.fullmatch(base.name.partition(":")[2]):
        raise ModelError(f"not a timm or torchvision name: {base.name!r}")
    refused = [
        k for k in base.kwargs if k in _REFUSED or "pretrained" in k or not _NAME.fullmatch(k)
    ]
    if refused or not all(map(_is_plain, base.kwargs.values())):
        raise ModelError(f"refused arguments for {base.name}: {base.kwargs}")
    return _build(base.name, base.kwargs, pretrained=False)


def open_teacher(
    base: Base,
    *,
    architecture: str | None = None,
    weights: str | Path | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The network before conversion, with its weights, from where they were found then.

    Args:
        architecture: `file.py:factory`, for a network of the user's own code.
        weights: a file to take instead.

    Raises:
        ModelError: the weights are not there any more, or have changed.
    """
    name, source = architecture or base.name, base.weights
    kwargs = kwargs or base.kwargs
    how = "give the original network's weights file: --teacher-weights (of evaluate: --weights)"
    if name == "code":
        raise ModelError("the network is the user's own code", do="add --model file.py:factory")
    if weights is not None:
        return open_model(name, weights=weights, kwargs=kwargs)
    if source is None:
        raise ModelError("it is not known where the original weights are", do=how)
    if source == "pretrained":
        return open_model(name, kwargs=kwargs)
    if source.startswith("seed:"):
        seed = int(source.removeprefix("seed:"))
        return open_model(name, random_weights=_is_library(name), seed=seed, kwargs=kwargs)
    path = Path(source)
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != base.sha256:
        raise ModelError(f"the original weights are gone or changed: {path}", do=how)
    return open_model(name, weights=path, kwargs=kwargs)


def load_weights_(model: nn.Module, path: Path) -> None:
    """Load a weights file into a network, strictly, in place."""
    state = _read_weights(path)
    wanted = model.state_dict()
    missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    wrong = [k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape]
    if missing or unknown or wrong:
        parts = [
            f"{len(names)} {what} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"
            for names, what in (
                (missing, "missing"), (unknown, "unknown"), (sorted(wrong), "of another shape")
            )
            if names
        ]  # fmt: skip
        raise ModelError(
            f"weights do not fit {type(model).__name__}: {', '.join(parts)}",
            where=str(path),
            do="check the model's name and arguments (--model-arg num_classes=10)",
        )
    model.load_state_dict(state)


def declared_preprocess(model: nn.Module) -> Preprocess | None:
    """What the network itself says about its inputs; None if it says nothing."""
    if getattr(model, "pretrained_cfg", None):
        config = resolve_model_data_config(model)
        known = {k: config[k] for k in ("input_size", "mean", "std", "crop_pct")}
        channels = input_channels(model)
        if channels != config["input_size"][0]:  # built with other in_chans than it was trained on
            known["input_size"] = (channels, *config["input_size"][1:])
            for key in ("mean", "std"):
                known[key] = (sum(config[key]) / len(config[key]),) * channels
        return Preprocess(**known, interpolation=config["interpolation"])
    if type(model).__module__.startswith("torchvision.models"):
        return Preprocess(input_size=(3, 224, 224), interpolation="bilinear", crop_pct=0.875)
    return None


def input_channels(model: nn.Module) -> int:
    """Input channels: what timm's networks declare, else the first convolution's, else 3."""
    declared = getattr(model, "in_chans", None)
    if isinstance(declared, int):
        return declared
    convs = (m for m in model.modules() if isinstance(m, nn.Conv2d))
    first = next(convs, None)
    return first.in_channels if first is not None else 3


def _is_library(name: str) -> bool:
    return name.startswith(("timm:", "torchvision:"))


def _is_plain(value: object) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return len(value) < 64 and all(map(_is_plain, value))
    if isinstance(value, int | float):
        return abs(value) <= 1 << 20
    return value is None or isinstance(value, str)


def _build(name: str, kwargs: Mapping[str, Any], pretrained: bool) -> nn.Module:
    source, _, rest = name.partition(":")
    try:
        if source == "timm":
            with hub() if pretrained else nullcontext():
                return timm.create_model(rest, pretrained=pretrained, **kwargs)
        if source == "torchvision":
            weights = "DEFAULT" if pretrained else None
            return torchvision.models.get_model(rest, weights=weights, **kwargs)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        known = timm.list_models() if source == "timm" else torchvision.models.list_models()
        if rest.partition(".")[0] not in known and ":" not in rest:
            raise ModelError(f"unknown model {name}", do=_nearest(rest, known)) from None
        if pretrained:
            raise ModelError(
                f"cannot fetch the pretrained weights of {name}: {lines[0]}",
                do="give a file with --weights, or --random-weights for a trial",
            ) from None
        raise ModelError(f"cannot build {name}: {lines[0]}") from error
    return _run_factory(name, kwargs)


def _nearest(name: str, known: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {', '.join(close)}?" if close else "see `timm.list_models()`"


def _run_factory(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    place, colon, factory = name.rpartition(":")
    if not colon:
        raise ModelError(
            f"unknown model {name!r}",
            do="say timm:NAME, torchvision:NAME, path/to/file.py:factory or an artifact folder",
        )
    try:
        if place.endswith(".py"):
            path = Path(place)
            if not path.is_file():
                raise ModelError(f"no such file: {place}")
            spec = importlib.util.spec_from_file_location(f"convswap_user_{path.stem}", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        if not hasattr(module, factory):
            raise ModelError(f"{place} has no {factory!r}")
        model = getattr(module, factory)(**kwargs)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"no such weights file: {path}")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise ModelError(f"not a readable safetensors file: {path} ({error})") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # damaged, or pickled code, which is never run
        raise ModelError(
            f"not a checkpoint of plain tensors: {path}", do="save its state_dict as safetensors"
        ) from None
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"no state_dict in {path}")
    return {key.removeprefix("module."): value for key, value in state.items()}
