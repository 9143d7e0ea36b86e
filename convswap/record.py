"""What convswap knows about a network: where it came from and what was done to it.

It travels on the network itself (attribute `_convswap`, copied by `copy.deepcopy`), so that
`convert`, `distill` and `save` take and return plain networks.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from torch import nn

from .plans import SEEDS, InputSize, Kind, Mean, Name, Plan, Std
from .support.numbered import Numbered


class Preprocess(Numbered):
    """How an image becomes an input: size `(channels, height, width)`, then (x - mean) / std
    on values 0..1. Arrays have any shape; their channels are the first of several axes.

    Attributes:
        crop_mode: what becomes of an image of other proportions: its middle is taken, it is made
            narrower, or a border is put around it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_size: InputSize
    mean: Mean = (0.485, 0.456, 0.406)
    std: Std = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bicubic"
    crop_pct: Annotated[float, Field(ge=0.01, le=2)] = 1.0  # above 1 with a border (timm: volo)
    crop_mode: Literal["center", "squash", "border"] = "center"

    @model_validator(mode="after")
    def _fits(self) -> Preprocess:
        channels = self.channels
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) != channels:
                raise ValueError(f"{name} has {len(numbers)} numbers for {channels} channels")
        return self

    @property
    def channels(self) -> int:
        """How many numbers mean and std have."""
        return self.input_size[0] if len(self.input_size) > 1 else 1


def _seeded(source: str | None) -> str | None:
    seed = source.removeprefix("seed:") if source and source.startswith("seed:") else "0"
    if not re.fullmatch(r"-?[0-9]{1,16}", seed) or abs(int(seed)) > SEEDS:
        raise ValueError(f"must name a seed, not {seed[:50]!r}")
    return source


class Base(BaseModel):
    """The network before conversion.

    Attributes:
        name: `timm:NAME`, `torchvision:NAME`, or `code` for a network only the user can build.
        kwargs: what its factory was called with.
        weights: where its weights came from: a file (in an artifact: as seen from the folder
            that holds it), `pretrained`, or `seed:N` where it was built without; None if
            nothing is known.
        sha256: of that file.
        averaged: whether averaged weights (EMA) in it were preferred.
        folded: whether the branches it was trained with were folded into single layers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "code"
    kwargs: dict[str, Any] = {}
    weights: Annotated[str | None, AfterValidator(_seeded)] = None
    sha256: str | None = None
    averaged: bool = True
    folded: bool = False


class Record(BaseModel):
    """Base, preprocessing, and what has been done.

    Attributes:
        plans: applied so far, in order.
        norms: batch norms folded after that: the path of each -> that of the layer before it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Base = Base()
    preprocess: Preprocess | None = None
    plans: Annotated[tuple[Plan, ...], Field(max_length=64)] = ()
    norms: Annotated[dict[Name, Name], Field(max_length=10_000)] = {}


def record_of(model: nn.Module) -> Record:
    """What is known about a network; an empty record if nothing is."""
    return vars(model).get("_convswap", Record())


def planned_output(model: nn.Module) -> Kind | None:
    """What a converted network's last plan says it puts out; None if nothing is said."""
    plans = record_of(model).plans
    return plans[-1].output if plans else None


def remember(model: nn.Module, **changes: object) -> nn.Module:
    """Update what is known about a network, in place, and return it."""
    model._convswap = record_of(model).model_copy(update=changes)
    return model
