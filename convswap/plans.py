"""Budgets, costs and plans: what to reach, and what becomes of each layer, as plain data."""

from __future__ import annotations

import json
import math
import operator
from dataclasses import astuple, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from .errors import PlanError, problems, reason
from .support.files import new_file, read_text
from .support.numbered import Numbered
from .support.plain import read_json

Fit = Literal["weight", "moments", "corrected"]
Kind = Literal["logits", "values"]
TargetName = Literal[
    "eager", "compile", "onnxruntime", "onnxruntime-int8", "openvino", "litert", "litert-int8"
]
Rank = int | tuple[int, int]
Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=1 << 62)]
_Several = Annotated[int, Field(ge=1, le=1 << 31)]
LEAST_MS, MOST_MS = 1e-9, 1e12  # of anything timed
_Damage = Annotated[float, Field(allow_inf_nan=False)]
SEEDS = 1 << 53  # either way; seeds that are made of one stay within 64 bits
Seed = Annotated[int, Field(ge=-SEEDS, le=SEEDS)]
THREADS, TOGETHER, IMAGES = 1 << 10, 1 << 16, 1 << 31  # most: threads, images at once and in all
LONG, FAST = 1e6, 1e3  # most passes or minutes of training, and the largest learning rate


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError(f"must be of printable characters, not {name[:50]!r}")
    return name


LONGEST = 1000  # name of a layer
Name = Annotated[str, Field(max_length=LONGEST), AfterValidator(_printable)]


def _one_input(size: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(size) > 1 << 25:
        raise ValueError("must hold at most 33 million values")
    return size


_Side = Annotated[int, Field(gt=0, le=1 << 20)]
InputSize = Annotated[
    tuple[_Side, ...], Field(min_length=1, max_length=7), AfterValidator(_one_input)
]
"""The shape of one input: `(channels, height, width)` of an image."""
Mean = tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...]
Std = tuple[Annotated[float, Field(ge=1e-6, le=1e6)], ...]


class _OneLine(type(BaseModel)):
    """Of classes that say in one line what is wrong with what they are made of."""

    def __call__(cls, *args: object, **kwargs: object) -> object:
        # subtle: an __init__ of its own pydantic would call also for parts of a larger document,
        # whose problems are told together
        try:
            return super().__call__(*args, **kwargs)
        except ValidationError as error:
            raise PlanError(f"not a valid {cls.__name__.lower()}: {problems(error)}") from None


class _Data(Numbered, metaclass=_OneLine):
    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Cost:
    """What a network or a layer costs for one image: multiply-adds of convolutions and linear
    layers, parameters, and bytes of parameters and buffers."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    macs: Count
    params: Count
    bytes: Count

    def __add__(self, other: Cost) -> Cost:
        return type(self)(*map(operator.add, astuple(self), astuple(other)))

    def __sub__(self, other: Cost) -> Cost:
        return type(self)(*map(operator.sub, astuple(self), astuple(other)))


class Budget(_Data):
    """Upper bounds, each the fraction kept of the dense network's total.

    Example: `Budget(macs=0.5)` keeps at most half of the multiply-adds.

    Attributes:
        latency: of the time the network takes on the target that is planned for.

    Raises:
        PlanError: one is no number above 0, up to 1.
    """

    macs: Fraction | None = None
    params: Fraction | None = None
    bytes: Fraction | None = None
    latency: Fraction | None = None

    def bounds(self, dense: Cost) -> dict[str, float]:
        """The bounds that are set, as totals of a network that costs `dense` before; that of
        latency only where the cost says the time."""
        shares = self.model_dump(exclude_none=True)
        return {
            name: share * getattr(dense, name)
            for name, share in shares.items()
            if hasattr(dense, name)
        }


class Layers(_Data):
    """Which layers may be replaced, by patterns of their module paths (`*`, `?`, `[abc]`), and
    what becomes of batch norms.

    Example: `Layers(only=("layer3.*", "layer4.*"), exclude=("*.downsample.*",))`.

    Attributes:
        only: if there are any, nothing but what matches one of these.
        exclude: nothing that matches one of these.
        fold_norms: whether batch norms are folded into the layers before them. In eval mode the
            outputs are the same, and PyTorch has less to do. (Runtimes that compile a network,
            and all files that are exported, have them folded anyhow.)
    """

    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    fold_norms: bool = False

    def allow(self, path: str) -> bool:
        """Whether the layer at a module path may be replaced."""
        inside = not self.only or any(fnmatchcase(path, pattern) for pattern in self.only)
        return inside and not any(fnmatchcase(path, pattern) for pattern in self.exclude)


class Latency(_Data):
    """Time of one forward pass of the whole network, measured when the plan was made.

    Attributes:
        target, threads, device, dtype, batch: where, and on how many images at once.
        ms_dense, ms: milliseconds before and after, medians, taking turns.
        ms_predicted: what the times of single layers had promised.
        layout: the memory layout the converted network is fastest in, if there is a choice.
        problems: a line for each replacement that the target could not run, and so has not.
    """

    target: str
    threads: _Several
    device: str
    dtype: str
    batch: _Several
    ms_dense: Annotated[float, Field(ge=LEAST_MS, le=MOST_MS)]
    ms: Annotated[float, Field(ge=LEAST_MS, le=MOST_MS)]
    ms_predicted: Annotated[float, Field(ge=0, le=MOST_MS)]
    layout: str = ""
    problems: tuple[str, ...] = ()


class Input(_Data):
    """One tensor that a network was observed on.

    Attributes:
        name: keyword, or position, of the argument.
        shape: of one sample, the batch dimension included.
    """

    name: Name
    shape: Annotated[tuple[_Side, ...], Field(max_length=8), AfterValidator(_one_input)]
    dtype: Literal[
        "float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8",
        "uint16", "uint32", "uint64", "bool", "complex32", "complex64", "complex128",
    ] = "float32"  # fmt: skip


def above(path: str) -> list[str]:
    """The paths of the modules that one lies in, the outermost first."""
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


class Choice(_Data):
    """What becomes of one site.

    Attributes:
        site: module path.
        form, rank: the replacement.
        macs, params: of the replacement.
        macs_dense: of the convolution it replaces.
        damage: predicted harm to the output, in nats (classifiers) or relative squared error.
        pads: how the replacement pads, where the layer's own setting does not say: numbers (one
            for each axis, or two, before and after), or `same`, TensorFlow's rule.
        dtype: of its weights, where it is not that of the layer's own.
        ms: predicted milliseconds of the replacement, if the plan was made for a target.
        ms_dense: of the convolution it replaces.
    """

    site: Name
    form: Name
    rank: Rank
    macs: Count = 0
    params: Count = 0
    macs_dense: Count = 0
    damage: _Damage = 0.0
    pads: tuple[int, ...] | Literal["same"] | None = None
    dtype: Literal["float16", "bfloat16", "float32", "float64"] | None = None
    ms: Annotated[float, Field(ge=0, le=MOST_MS)] | None = None
    ms_dense: Annotated[float, Field(ge=0, le=MOST_MS)] | None = None


class Plan(_Data):
    """One choice per converted site; every other layer stays. Readable, editable JSON.

    To edit by hand change `form` and `rank`, or delete a choice to keep its layer; costs are
    counted anew when the plan is used, damage is not, and times are dropped.

    Attributes:
        inputs: the example that costs are counted on.
        damage: predicted for all choices together, the sum of theirs.
        damage_measured: what it was once converted, on the last eighth of the images.
        output: what damage is of: KL divergence of `logits`, or squared error of `values`.
        notes: what a person should know of how it was made, a line each.
        fold_norms: whether batch norms are folded into the layers before them.
        fit: how weights are fitted: to the dense weights alone, to the activations of the
            dense network, or in sequence, correcting for what was converted before.
    """

    version: Literal[1] = 1
    inputs: Annotated[tuple[Input, ...], Field(max_length=10_000)]
    fit: Fit = "corrected"
    output: Kind | None = None
    seed: Seed = 0
    budget: Budget = Budget()
    dense: Cost
    planned: Cost
    damage: _Damage = 0.0
    damage_measured: _Damage | None = None
    latency: Latency | None = None
    notes: tuple[str, ...] = ()
    fold_norms: bool = False
    choices: Annotated[tuple[Choice, ...], Field(max_length=10_000)]

    @model_validator(mode="after")
    def _apart(self) -> Plan:
        sites = {choice.site for choice in self.choices}
        for site in sites:
            if inside := sites.intersection(above(site)):
                raise ValueError(f"{site} lies inside {min(inside)}, which is replaced as well")
        return self

    @model_validator(mode="before")
    @classmethod
    def _of_one_image(cls, content: object) -> object:
        """Plans that were written before other inputs than images could be told."""
        if isinstance(content, dict) and isinstance(content.get("input_size"), (list, tuple)):
            size = content["input_size"]
            rest = {key: value for key, value in content.items() if key != "input_size"}
            return {"inputs": [{"name": "0", "shape": [1, *size]}]} | rest
        return content

    @property
    def input_size(self) -> tuple[int, int, int] | None:
        """`(channels, height, width)` where the network takes one image, else None."""
        if len(self.inputs) == 1 and len(self.inputs[0].shape) == 4:
            return self.inputs[0].shape[1:]
        return None

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan file.

        Raises:
            PlanError: it is missing, not JSON, or not a plan; all problems in one message.
        """
        try:
            return cls.model_validate(read_json(read_text(path)))
        except ValidationError as error:
            raise PlanError(f"not a valid plan: {problems(error)}", where=str(path)) from None
        except (OSError, ValueError) as error:
            raise PlanError(f"cannot read plan {path}: {reason(error)}") from None

    def save(self, path: str | Path) -> None:
        """Write the plan as indented JSON."""
        with new_file(path) as temporary:
            text = json.dumps(self.model_dump(mode="json"), indent=1) + "\n"
            temporary.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Drop:
    """As few multiply-adds as lose at most `points` percent points of quality on the images of
    `judge`, a source as for `open_images`; or of what `judge`, a `file.py:function`, returns."""

    points: float
    judge: str


Goal = Budget | Drop | Plan
