"""Arguments and options that verbs share, in groups: parsed and checked here, once.

Nothing here imports PyTorch: help is quick.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter, Token, validators

from .. import plans
from ..errors import ConvswapError
from ..plans import Goal, Plan
from ..support.files import user_cache
from ..support.plain import read_yaml


def _numbers(number: type) -> Parameter:
    """A parameter of numbers separated by commas, or as sizes are shown: 3x224x224."""

    def parse(kind: object, tokens: Sequence[Token]) -> tuple:
        text = tokens[0].value
        try:
            numbers = tuple(number(part) for part in text.replace("x", ",").split(","))
        except ValueError:
            numbers = ()
        if not numbers:
            raise ValueError(f"takes numbers separated by commas, not {text!r}")
        return numbers

    return Parameter(converter=parse, n_tokens=1, accepts_keys=False)


def _count(most: int) -> Parameter:
    return Parameter(validator=validators.Number(gte=1, lte=most))


Count = Annotated[int, _count(plans.IMAGES)]
Together = Annotated[int, _count(plans.TOGETHER)]
Threads = Annotated[int, _count(plans.THREADS)]
Model = Annotated[
    str,
    Parameter(help="timm:NAME, torchvision:NAME, path/to/file.py:factory, or an artifact folder"),
]
Artifact = Annotated[str, Parameter(name="DIR", help="an artifact folder")]
Recipe = Annotated[str, Parameter(name="RECIPE", help="a shipped name, or a file")]
Folder = Annotated[str, Parameter(name="--out", help="artifact folder to write")]
Data = Annotated[
    str,
    Parameter(
        name="--data",
        metavar="SRC",
        help="images: a folder (class folders, or flat), a .tar of such, or `digits`; arrays: a "
        ".npy or .npz file of many, or a folder of .npy files; or `synthetic`, made up",
    ),
]
InputSize = Annotated[
    tuple[int, ...] | None,
    _numbers(int),
    Parameter(
        metavar="C,H,W",
        help="or any other shape of one input; default: the model's own; of arrays theirs",
    ),
]
_PerChannel = Annotated[tuple[float, ...] | None, _numbers(float), Parameter(metavar="NUMBERS")]
Output = Annotated[
    plans.Kind | None,
    Parameter(help="what the network puts out; default: as planned, else found out from it"),
]
Memory = Annotated[
    float | None, Parameter(metavar="GIB", validator=validators.Number(gte=0.01, lte=1e6))
]
BatchSize = Annotated[Together, Parameter(help="images per forward pass")]
Settings = Annotated[
    tuple[str, ...],
    Parameter(name="--set", metavar="KEY=VALUE", help="change an entry: budget.macs=0.3"),
]
Force = Annotated[bool, Parameter(help="overwrite the output")]
Json = Annotated[bool, Parameter(name="--json", help="print one JSON document on stdout")]


@Parameter(name="*", group="Network")
@dataclass(frozen=True, kw_only=True)
class Code:
    """How the network is built."""

    architecture: Annotated[str | None, Parameter(name="--model")] = None
    """file.py:factory of an artifact made from your own code"""
    model_arg: Annotated[tuple[str, ...], Parameter(metavar="KEY=VALUE")] = ()
    """argument of the model's factory"""

    @property
    def kwargs(self) -> dict[str, Any]:
        """Arguments of the factory, their values read as YAML."""
        if bad := [pair for pair in self.model_arg if "=" not in pair]:
            raise ConvswapError(f"--model-arg takes KEY=VALUE, not {bad[0]!r}")
        pairs = (pair.partition("=") for pair in self.model_arg)
        try:
            return {key: read_yaml(value) for key, _, value in pairs}
        except ValueError:
            said = " ".join(self.model_arg)
            raise ConvswapError(f"--model-arg takes KEY=VALUE in YAML, not {said}") from None


@dataclass(frozen=True, kw_only=True)
class Network(Code):
    """How the network is built, and its weights."""

    weights: str | None = None
    """weights file (.safetensors, or a state_dict)"""
    random_weights: bool = False
    """random weights, for timing and trials"""
    no_ema: bool = False
    """the weights themselves, where a checkpoint has their moving average as well"""
    reparameterize: bool = False
    """fold the branches that some networks of timm are trained with (RepVGG, FastViT, ...) first"""


@dataclass(frozen=True, kw_only=True)
class Original(Code):
    """How the network is built, and the weights it had before."""

    teacher_weights: str | None = None
    """of the original network; default: as converted"""


@Parameter(name="*", group="Images")
@dataclass(frozen=True, kw_only=True)
class Reading:
    """How images become inputs."""

    input_size: InputSize = None
    mean: _PerChannel = None
    """per channel, of values 0..1"""
    std: _PerChannel = None
    """per channel, of values 0..1"""


@dataclass(frozen=True, kw_only=True)
class Calibration(Reading):
    """How many images are used to fit layers, and how they become inputs."""

    images: Count = 1000
    """calibration images"""
    batch_size: BatchSize = 64
    memory: Memory = None
    """most to hold images in flight, fewer if need be; default: half of what is free"""


@dataclass(frozen=True, kw_only=True)
class Fitting(Calibration):
    """What layers are fitted to, and how."""

    data: Data | None = None
    fit: plans.Fit | None = None
    """weight needs no images; default: corrected with images, weight without"""

    def settled(self, goal: Goal) -> plans.Fit:
        """How to fit: as asked, as a plan says, else as well as the images allow.

        Raises:
            ConvswapError: what was asked needs images, and there are none.
        """
        planned = goal.fit if isinstance(goal, Plan) else None
        fit = self.fit or planned or ("corrected" if self.data else "weight")
        if self.data is None and fit != "weight":
            raise ConvswapError(f"--fit {fit} needs images", do="add --data, or --fit weight")
        return fit


@Parameter(name="*", group="Layers")
@dataclass(frozen=True, kw_only=True)
class Layers:
    """Which layers may be replaced, by patterns such as 'layer3.*', and what of batch norms."""

    only: tuple[str, ...] = ()
    """nothing but the layers whose path matches; may be repeated"""
    exclude: tuple[str, ...] = ()
    """no layer whose path matches; may be repeated"""
    fold_norms: bool = False
    """fold batch norms into the layers before them: the same outputs, faster in PyTorch"""

    @property
    def allowed(self) -> plans.Layers:
        """The same as the library has it."""
        return plans.Layers(only=self.only, exclude=self.exclude, fold_norms=self.fold_norms)


@Parameter(name="*", group="Time")
@dataclass(frozen=True, kw_only=True)
class Timing:
    """Where time is measured."""

    target: plans.TargetName = "eager"
    """what runs the network"""
    batch: Together = 1
    """images per pass when time is measured"""
    dtype: str = "float32"
    """to measure in; with eager and compile also float16, bfloat16"""


@Parameter(name="*", group="ONNX and LiteRT")
@dataclass(frozen=True, kw_only=True)
class RuntimeFile:
    """How the files of runtimes are written."""

    int8: bool = False
    """convolutions in 8-bit integers, calibrated on --data"""
    channels_last: bool = False
    """LiteRT: images, and maps put out, with channels last"""
    batch: Together | None = None
    """ONNX: the only batch size it takes; default: any"""
    free_size: bool = False
    """ONNX: any height and width"""
    opset: Count | None = None
    """ONNX: version of the operators; default: PyTorch's choice"""

    @property
    def of_onnx(self) -> bool:
        """Whether anything is said that goes for ONNX alone."""
        return any(value not in (None, False) for value in self.onnx.values())

    @property
    def onnx(self) -> dict[str, Any]:
        """As the writers of ONNX take it."""
        return {"batch": self.batch, "free_size": self.free_size, "opset": self.opset}


@Parameter(name="*", group="Run")
@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a verb runs."""

    device: str = "cpu"
    """cpu, cuda, ..."""
    threads: Threads | None = None
    """CPU threads; where networks are timed, those they are timed with"""
    quiet: bool = False
    """no progress"""


@dataclass(frozen=True, kw_only=True)
class Run(Machine):
    """Where a verb runs, and what its random choices are."""

    seed: Annotated[
        int, Parameter(validator=validators.Number(gte=-plans.SEEDS, lte=plans.SEEDS))
    ] = 0
    """decides every random choice"""

    @property
    def planning(self) -> dict[str, Any]:
        """What `plan` and `survey` are given whatever is asked of them."""
        alone = os.environ.get("WORLD_SIZE", "1") == "1"  # else each process has seen other images
        return {"seed": self.seed, "cache": user_cache("surveys") if alone else None}
