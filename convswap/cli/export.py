"""convswap export: files for other runtimes, checked against PyTorch."""

from __future__ import annotations

import json
from typing import Annotated

import torch
import typer

from ..errors import ConvswapError
from ..runtimes import export as exporters
from ..support.files import check_new
from . import opening, report
from . import options as o

EXAMPLE = "convswap export r18-half --onnx r18-half.onnx --data photos/"


def export(
    artifact_dir: o.Artifact,
    onnx: Annotated[str | None, typer.Option("--onnx", help="ONNX file to write")] = None,
    pt2: Annotated[
        str | None, typer.Option("--pt2", help="torch.export program to write; needs no convswap")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="SRC", help="real images to check with")
    ] = None,
    architecture: o.Architecture = None,
    model_arg: o.ModelArg = None,
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Write ONNX or a torch.export program, and compare its outputs with PyTorch's."""
    writers = {"onnx": (onnx, exporters.export_onnx), "pt2": (pt2, exporters.export_program)}
    wanted = {
        kind: (check_new(path, force), write) for kind, (path, write) in writers.items() if path
    }
    if not wanted:
        raise ConvswapError("nothing to export", do="say --onnx FILE or --pt2 FILE")
    network = opening.open_artifact(artifact_dir, architecture, model_arg)
    preprocess = opening.settle_preprocess(network, data)
    if data:
        source = opening.source_images(network, data)
        images = next(iter(source.batches(16, count=16)))[0]
    else:
        images = torch.randn(4, *preprocess.input_size, generator=torch.Generator().manual_seed(0))
    gaps = {kind: write(network, images, path) for kind, (path, write) in wanted.items()}
    if as_json:
        print(json.dumps({"max_abs_diff": gaps, "images": len(images), "real_images": bool(data)}))
    for kind, (path, _) in wanted.items():
        what = "real images" if data else "random inputs (--data SRC checks on real ones)"
        report.note(
            f"{kind}: largest difference from PyTorch {gaps[kind]:.1e} on {len(images)} {what}"
        )
        report.wrote(path)
