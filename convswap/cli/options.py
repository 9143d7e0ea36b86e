"""Arguments and options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

from ..runtimes import TARGETS

MODEL_HELP = "timm:NAME, torchvision:NAME, path/to/file.py:factory, or an artifact folder"
DATA_HELP = "images: a folder (class folders, or flat), a .tar of class folders, or `digits`"

Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
Artifact = Annotated[str, typer.Argument(metavar="DIR", help="an artifact folder")]
Architecture = Annotated[
    str | None,
    typer.Option("--model", help="file.py:factory of an artifact made from your own code"),
]
Weights = Annotated[
    str | None, typer.Option("--weights", help="weights file (.safetensors, or a state_dict)")
]
RandomWeights = Annotated[
    bool, typer.Option("--random-weights", help="random weights, for timing and trials")
]
ModelArg = Annotated[
    list[str] | None,
    typer.Option("--model-arg", metavar="KEY=VALUE", help="argument of the model's factory"),
]
Data = Annotated[str, typer.Option("--data", metavar="SRC", help=DATA_HELP)]
InputSize = Annotated[
    str | None, typer.Option("--input-size", metavar="C,H,W", help="default: the model's own")
]
Mean = Annotated[str | None, typer.Option("--mean", help="per channel, of values 0..1")]
Std = Annotated[str | None, typer.Option("--std", help="per channel, of values 0..1")]
Macs = Annotated[
    float | None, typer.Option("--macs", help="fraction of the multiply-adds to keep, 0..1")
]
Params = Annotated[
    float | None, typer.Option("--params", help="fraction of the parameters to keep, 0..1")
]
Latency = Annotated[
    float | None,
    typer.Option("--latency", help="fraction of the time on --target to keep, 0..1; measured"),
]
Batch = Annotated[int, typer.Option("--batch", help="images per pass when time is measured", min=1)]
Dtype = Annotated[
    str,
    typer.Option("--dtype", help="to measure in; with eager and compile also float16, bfloat16"),
]
FitOption = Annotated[
    str | None,
    typer.Option(
        "--fit",
        help="weight (no images), moments, or corrected; default corrected with images",
    ),
]
Val = Annotated[
    str | None,
    typer.Option(
        "--val", metavar="SRC", help="images to judge by: labelled, or closeness to the original"
    ),
]
ImagesOption = Annotated[int, typer.Option("--images", help="calibration images", min=1)]
Memory = Annotated[
    float | None,
    typer.Option(
        "--memory",
        metavar="GIB",
        min=0.01,
        help="most to hold images in flight, fewer if need be; default: half of what is free",
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="images per forward pass")]
Seed = Annotated[int, typer.Option("--seed", help="decides every random choice")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, ...")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads")]
TargetName = Annotated[
    str, typer.Option("--target", help=f"what runs the network: {', '.join(TARGETS)}")
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document on stdout")]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress")]
Force = Annotated[bool, typer.Option("--force", help="overwrite the output")]
