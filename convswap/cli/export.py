"""convswap export: files for other runtimes, checked against PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..errors import ConvswapError
from ..support.files import check_new
from . import console, early
from . import options as o

if TYPE_CHECKING:
    from torch import Tensor, nn

CALIBRATION = 500  # images that ranges of 8-bit integers are seen on
EXAMPLE = "convswap export r18-half --onnx r18-half.onnx --data photos/"
Onnx = Annotated[str | None, Parameter(metavar="FILE", help="ONNX file to write")]
Tflite = Annotated[
    str | None, Parameter(metavar="FILE", help="LiteRT (TensorFlow Lite) file, for one image")
]
Pt2 = Annotated[
    str | None, Parameter(metavar="FILE", help="torch.export program to write; needs no convswap")
]


def export(
    artifact_dir: o.Artifact,
    /,
    *,
    onnx: Onnx = None,
    tflite: Tflite = None,
    pt2: Pt2 = None,
    data: Annotated[o.Data | None, Parameter(help="real images to check with")] = None,
    file: o.RuntimeFile = o.RuntimeFile(),
    code: o.Code = o.Code(),
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Write ONNX, LiteRT or a torch.export program, and compare its outputs with PyTorch's.

    With --int8 it is compared in quality and in time with the same file in float32.
    """
    wanted = _wanted({"onnx": onnx, "tflite": tflite, "pt2": pt2}, data, file, force)
    early.check(artifact=artifact_dir, sources=[data])
    from . import opening

    network = opening.open_artifact(artifact_dir, code)
    preprocess = opening.settle(network, data)
    data = opening.source_for(network, preprocess, data)
    images = opening.example_images(network, data, preprocess)
    gaps, document, parts = {}, {"images": len(images), "real_images": bool(data)}, []
    for kind, path in wanted.items():
        if file.int8 and kind != "pt2":
            document["int8"], table = _quantise(network, data, kind, path, file)
            parts.append(table)
        else:
            gaps[kind] = _write(network, images, kind, path, file)
    document |= {"max_abs_diff": gaps}
    console.answer(as_json, document, *parts)
    what = "real images" if data else "random inputs (--data SRC checks on real ones)"
    for kind, gap in gaps.items():
        console.note(f"{kind}: largest difference from PyTorch {gap:.1e} on {len(images)} {what}")
    for path in wanted.values():
        console.wrote(path)


def _wanted(
    files: dict[str, str | None], data: str | None, file: o.RuntimeFile, force: bool
) -> dict[str, Path]:
    """The files to write, by kind."""
    paths = {kind: check_new(path, force) for kind, path in files.items() if path}
    if not paths:
        raise ConvswapError("nothing to export", do="say --onnx FILE, --tflite FILE or --pt2 FILE")
    if file.of_onnx and "onnx" not in paths:
        raise ConvswapError("--batch, --free-size and --opset go with --onnx")
    if file.channels_last and "tflite" not in paths:
        raise ConvswapError("--channels-last goes with --tflite")
    if file.int8 and len(paths.keys() & {"onnx", "tflite"}) != 1:
        raise ConvswapError("--int8 goes with one of --onnx and --tflite")
    if file.int8 and not data:
        raise ConvswapError("--int8 needs images to see ranges on", do="say --data SRC")
    return paths


def _write(network: nn.Module, images: Tensor, kind: str, path: Path, file: o.RuntimeFile) -> float:
    """Write a file; the largest difference of its outputs from the network's."""
    from ..runtimes.export import export_onnx
    from ..runtimes.litert import export_tflite
    from ..runtimes.program import export_program

    if kind == "onnx":
        return export_onnx(network, images, path, **file.onnx)
    if kind == "tflite":
        return export_tflite(network, images, path, channels_last=file.channels_last)
    return export_program(network, images, path)


def _quantise(
    network: nn.Module, data: str, kind: str, path: Path, file: o.RuntimeFile
) -> tuple[dict[str, dict], object]:
    """Write a file in 8-bit integers; what it costs and gains beside float32."""
    from ..inputs.calibration import calibration_batches
    from ..results.evaluation import open_judges
    from ..results.quantisation import beside_float
    from ..runtimes.int8 import export_int8
    from ..runtimes.litert import export_tflite_int8
    from . import tables

    batches = calibration_batches(network, data, count=CALIBRATION, note=console.note)
    if kind == "onnx":
        quantised, plain = export_int8(network, batches, path, **file.onnx)
    else:
        quantised, plain = export_tflite_int8(
            network, batches, path, channels_last=file.channels_last
        )
    judges = open_judges(network, data, console.note)
    with console.progress() as progress:
        rows = beside_float(quantised, plain, network, judges, file.batch, progress)
    if rows["int8"]["ms"] > rows["float32"]["ms"]:
        console.note(
            "int8 is slower here: it pays on processors with 8-bit dot products (VNNI, Arm's), and "
            "where layers are large"
        )
    return rows, tables.comparison_table(rows)
