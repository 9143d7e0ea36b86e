"""Networks going in: timm and torchvision by name, the user's own code by file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ModelError
from ..network.copies import deep_copy
from ..network.known_shapes import KnownShapes
from ..network.state import check_finite
from ..record import Base, Preprocess, remember
from ..support.files import is_there
from ..support.randomness import seeded
from .as_trained import read_as_trained
from .bases import build_library, fold_branches_
from .checkpoints import load_weights_
from .names import check_named, is_library
from .of_torchvision import preprocess_of
from .user_code import failed, open_function
from .weight_files import digest


def open_model(
    name: str,
    *,
    weights: str | Path | None = None,
    random_weights: bool = False,
    seed: int = 0,
    kwargs: Mapping[str, Any] | None = None,
    averaged: bool = True,
    fold: bool = False,
    note: Callable[[str], None] = lambda line: None,
) -> nn.Module:
    """A network with its weights, in eval mode, that knows where it came from.

    Args:
        name: `timm:NAME`, `torchvision:NAME`, `path/to/file.py:factory` or
            `package.module:factory`. The last two run the user's own code.
        weights: a `.safetensors` file, a checkpoint that `torch.load(weights_only=True)`
            opens, or a folder of either, as transformers and timm write it. Without it, timm and
            torchvision fetch their pretrained weights, and a factory's network is taken as it
            is built.
        random_weights: initialise from `seed` instead, for timing and trials.
        kwargs: arguments of the factory, such as `num_classes`.
        averaged: whether averaged weights (EMA) are taken where the file has them.
        fold: whether branches that a network of timm is trained with are folded into single
            layers first (RepVGG, MobileOne, FastViT, LeViT, ...): the same outputs, less work.
        note: called with a line on what was taken, where there was a choice.

    Raises:
        ModelError: the name is unknown, or the weights are missing, do not fit, or hold NaN.
    """
    kwargs = dict(kwargs or {})
    source = "pretrained" if is_library(name) and not random_weights else f"seed:{seed}"
    found = None
    if weights is not None:
        source, found = str(Path(weights).resolve()), digest(Path(weights))
    with seeded(seed):
        if is_library(name):
            model = build_library(name, kwargs, weights=source, fetch=True)
        else:
            model = _run_factory(name, kwargs)
    if fold and not name.startswith("timm:"):
        raise ModelError("only networks of timm say how their branches are folded")
    folded, args = False, {}
    if weights is not None:
        given = {"path": Path(weights), "averaged": averaged, "note": note}
        try:
            args = load_weights_(model, **given)
        except ModelError as error:
            if not fold:
                raise
            folded = True
            try:  # they may have been folded before they were saved
                args = load_weights_(fold_branches_(model), **given)
            except ModelError:
                raise error from None
    model.eval()
    check_finite(model)
    if fold and not folded:
        fold_branches_(model)
    base = Base(
        name=name if is_library(name) else "code", kwargs=kwargs, weights=source, sha256=found,
        averaged=averaged, folded=fold,
    )  # fmt: skip
    declared = declared_preprocess(model, name, kwargs)
    preprocess = declared and read_as_trained(declared, args)
    if preprocess != declared:
        before = declared.model_dump()
        new = [f"{k} {v}" for k, v in preprocess.model_dump().items() if v != before[k]]
        note(f"{weights}: images are read as in its training, {', '.join(new)}")
    return remember(model, base=base, preprocess=preprocess)


def open_structure(
    name: str,
    *,
    random_weights: bool = False,
    kwargs: Mapping[str, Any] | None = None,
    fold: bool = False,
) -> nn.Module:
    """A network of timm or torchvision to look at: it has no storage, in which the largest are
    built in a second, unless building it or running it takes values.

    Args:
        random_weights, kwargs, fold: as for `open_model`.

    Raises:
        ModelError: the name is unknown, or an argument does not fit.
    """
    try:
        with torch.device("meta"):
            weights = None if random_weights else "pretrained"
            model = build_library(name, dict(kwargs or {}), weights=weights)
            model = fold_branches_(model.eval()) if fold else model.eval()
            preprocess = declared_preprocess(model, name, kwargs)
            with torch.no_grad(), KnownShapes():
                model(torch.zeros(1, *preprocess.input_size))
        base = Base(name=name, kwargs=dict(kwargs or {}), folded=fold)
        return remember(model, base=base, preprocess=preprocess)
    except Exception:  # of networks' own code
        pass
    return open_model(name, random_weights=True, kwargs=kwargs, fold=fold)


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
    how_built = {"kwargs": kwargs or base.kwargs, "fold": base.folded and not architecture}
    how = "give the original network's weights: --teacher-weights (of evaluate: --weights)"
    if name == "code":
        raise ModelError("the network is the user's own code", do="add --model file.py:factory")
    if weights is not None:
        return open_model(name, weights=weights, averaged=base.averaged, **how_built)
    if source is None:
        raise ModelError("it is not known where the original weights are", do=how)
    if source == "pretrained":
        return open_model(name, **how_built)
    if source.startswith("seed:"):
        seed = int(source.removeprefix("seed:"))
        return open_model(name, random_weights=is_library(name), seed=seed, **how_built)
    path = Path(source)
    if not is_there(path) or digest(path) != base.sha256:
        raise ModelError(f"the original weights are gone or changed: {path}", do=how)
    return open_model(name, weights=path, averaged=base.averaged, **how_built)


def declared_preprocess(
    model: nn.Module, name: str = "", kwargs: Mapping[str, Any] | None = None
) -> Preprocess | None:
    """What the network itself says about its inputs; None if it says nothing.

    Args:
        name, kwargs: that it was built by.
    """
    if getattr(model, "pretrained_cfg", None):
        from timm.data import resolve_model_data_config

        config = resolve_model_data_config(model)
        known = {k: config[k] for k in ("input_size", "mean", "std", "crop_pct", "crop_mode")}
        channels = input_channels(model)
        if channels != config["input_size"][0]:  # built with other in_chans than it was trained on
            known["input_size"] = (channels, *config["input_size"][1:])
            for key in ("mean", "std"):
                known[key] = (sum(config[key]) / len(config[key]),) * channels
        if size := (kwargs or {}).get("img_size"):  # as many of timm's are built for
            sides = (size, size) if isinstance(size, int) else tuple(size)
            known["input_size"] = (channels, *sides)
        return Preprocess(**known, interpolation=config["interpolation"])
    library, _, rest = name.partition(":")
    if library == "torchvision" or type(model).__module__.startswith("torchvision.models"):
        return preprocess_of(model, rest if library == "torchvision" else None)
    return None


def input_channels(model: nn.Module) -> int:
    """Input channels: what timm's networks declare, else the first convolution's, else 3."""
    declared = getattr(model, "in_chans", None)
    if isinstance(declared, int):
        return declared
    convs = (m for m in model.modules() if isinstance(m, nn.Conv2d))
    first = next(convs, None)
    return first.in_channels if first is not None else 3


def _run_factory(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    check_named(name)
    factory = open_function(name)
    if isinstance(found := factory.__wrapped__, nn.Module):  # built as its file ran
        if kwargs:
            raise ModelError(f"{name} is a network already, and takes no arguments")
        return deep_copy(found)
    try:
        model = factory(**kwargs)
    except (Exception, SystemExit) as error:
        raise failed(name, error) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returned {type(model).__name__}, not a torch.nn.Module")
    return model
