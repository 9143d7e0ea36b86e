"""torchvision's networks as its weights want them: with weights, a few are built otherwise than
without (they normalise what they read, their batch norms are frozen), and all say how images become
their inputs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..record import Preprocess
from ..support.loaded import loaded
from .hub import check_fetched

FRAMES = 16  # of a video, of which the weights say how many there must be at least
_DETECTORS = "torchvision.models.detection.transform:GeneralizedRCNNTransform"


def build(
    name: str, kwargs: Mapping[str, Any], weights: str | None = None, *, fetch: bool = False
) -> nn.Module:
    """A network by its name.

    Args:
        weights: it is built for: `pretrained`, or a file, which may have been fetched before.
        fetch: it gets its pretrained weights.

    Raises:
        Exception: the name is unknown, an argument does not fit, or weights cannot be fetched.
    """
    from torchvision.models import get_model_builder, get_model_weights

    builder, known = get_model_builder(name), get_model_weights(name)
    files = {Path(each.url).name: each for each in known}
    trained = known.DEFAULT if weights == "pretrained" else files.get(Path(weights or "").name)
    if fetch:
        check_fetched(trained.url, Path(torch.hub.get_dir()) / "checkpoints")
    given: dict[str, Any] = {"weights": trained}
    if "weights_backbone" in inspect.signature(builder).parameters:
        given["weights_backbone"] = None  # subtle: by default a backbone is fetched
    with nullcontext() if fetch or not trained else _unfilled():
        return builder(**given, **kwargs)


@contextmanager
def _unfilled() -> Iterator[None]:
    """Networks that are built inside with weights keep those they begin with."""
    from torchvision.models import WeightsEnum

    read, load = WeightsEnum.get_state_dict, nn.Module.load_state_dict
    WeightsEnum.get_state_dict = lambda *_, **__: {}
    nn.Module.load_state_dict = lambda *_, **__: None
    try:
        yield
    finally:
        WeightsEnum.get_state_dict, nn.Module.load_state_dict = read, load


def preprocess_of(model: nn.Module, name: str | None = None) -> Preprocess | None:
    """How images, or the frames of a video, become inputs of a network of torchvision.

    Args:
        name: that it was built by, whose weights say so; of others it is known what networks of
            their kind read.

    Returns:
        None where it reads something else.
    """
    inside = getattr(model, "transform", None)
    if isinstance(inside, loaded(_DETECTORS)):  # it takes mean and std off itself
        side = max(inside.min_size)
        return Preprocess(
            input_size=(3, side, side), mean=(0,) * 3, std=(1,) * 3, interpolation="bilinear"
        )
    if name is None:
        return Preprocess(input_size=(3, 224, 224), interpolation="bilinear", crop_pct=0.875)
    from torchvision.models import get_model_weights

    weights = get_model_weights(name).DEFAULT
    said = weights.transforms()
    if not hasattr(said, "resize_size"):  # of pairs of images
        return None
    size = getattr(said, "crop_size", said.resize_size)
    read = {"mean": tuple(said.mean), "std": tuple(said.std)}
    if len(size) == 2:  # of videos
        frames = max(FRAMES, weights.meta.get("min_temporal_size", 0))
        return Preprocess(input_size=(3, frames, *size), **read)
    # subtle: without weights some are built for smaller images
    side, share = getattr(model, "image_size", size[0]), size[0] / said.resize_size[0]
    return Preprocess(
        input_size=(3, side, side), interpolation=said.interpolation.value, crop_pct=share, **read
    )
