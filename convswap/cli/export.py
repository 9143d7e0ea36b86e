"""convswap export: files for other runtimes, checked against PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..errors import ConvswapError
from ..support.files import check_new
from . import console
from . import options as o

if TYPE_CHECKING:
    from torch import nn

CALIBRATION = 500  # images that ranges of 8-bit integers are seen on
EXAMPLE = "convswap export r18-half --onnx r18-half.onnx --data photos/"
Onnx = Annotated[str | None, Parameter(metavar="FILE", help="ONNX file to write")]
Pt2 = Annotated[
    str | None, Parameter(metavar="FILE", help="torch.export program to write; needs no convswap")
]


def export(
    artifact_dir: o.Artifact,
    /,
    *,
    onnx: Onnx = None,
    pt2: Pt2 = None,
    data: Annotated[o.Data | None, Parameter(help="real images to check with")] = None,
    file: o.OnnxFile = o.OnnxFile(),
    code: o.Code = o.Code(),
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Write ONNX or a torch.export program, and compare its outputs with PyTorch's.

    With --int8 it is compared in quality and in time with the same file in float32.
    """
    from ..runtimes.export import export_onnx, export_program
    from . import opening

    wanted = _wanted(onnx, pt2, data, file, force)
    network = opening.open_artifact(artifact_dir, code)
    images = opening.example_images(data, opening.settle(network, data))
    document, parts = {"max_abs_diff": {}, "images": len(images), "real_images": bool(data)}, []
    if onnx and file.int8:
        document["int8"], table = _quantise(network, data, onnx, file)
        parts.append(table)
    elif onnx:
        document["max_abs_diff"]["onnx"] = export_onnx(network, images, onnx, **file.form)
    if pt2:
        document["max_abs_diff"]["pt2"] = export_program(network, images, pt2)
    console.answer(as_json, document, *(parts or [document]))
    what = "real images" if data else "random inputs (--data SRC checks on real ones)"
    for kind, gap in document["max_abs_diff"].items():
        console.note(f"{kind}: largest difference from PyTorch {gap:.1e} on {len(images)} {what}")
    for path in wanted:
        console.wrote(path)


def _wanted(
    onnx: str | None, pt2: str | None, data: str | None, file: o.OnnxFile, force: bool
) -> list[Path]:
    """The files to write."""
    paths = [check_new(path, force) for path in (onnx, pt2) if path]
    if not paths:
        raise ConvswapError("nothing to export", do="say --onnx FILE or --pt2 FILE")
    if file != o.OnnxFile() and not onnx:
        raise ConvswapError("--int8, --batch, --free-size and --opset go with --onnx")
    if file.int8 and not data:
        raise ConvswapError("--int8 needs images to see ranges on", do="say --data SRC")
    return paths


def _quantise(
    network: nn.Module, data: str, path: str, file: o.OnnxFile
) -> tuple[dict[str, dict], object]:
    """Write ONNX in 8-bit integers; what it costs and gains beside float32."""
    from ..inputs.calibration import calibration_batches
    from ..results.evaluation import open_judges
    from ..results.quantisation import beside_float
    from ..runtimes.int8 import export_int8
    from . import tables

    batches = calibration_batches(network, data, count=CALIBRATION, note=console.note)
    quantised, plain = export_int8(network, batches, path, **file.form)
    judges = open_judges(network, data, console.note)
    with console.progress() as progress:
        rows = beside_float(quantised, plain, network, judges, file.batch, progress)
    if rows["int8"]["ms"] > rows["float32"]["ms"]:
        console.note(
            "int8 is slower here: it pays on processors with 8-bit dot products (VNNI, Arm's), and "
            "where layers are large"
        )
    return rows, tables.comparison_table(rows)
