"""convswap export: files for other runtimes, checked against PyTorch."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from ..errors import ConvswapError
from ..support.files import check_new
from . import console
from . import options as o

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
    code: o.Code = o.Code(),
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Write ONNX or a torch.export program, and compare its outputs with PyTorch's."""
    from ..runtimes.export import export_onnx, export_program
    from . import opening

    writers = {"onnx": (onnx, export_onnx), "pt2": (pt2, export_program)}
    wanted = {
        kind: (check_new(path, force), write) for kind, (path, write) in writers.items() if path
    }
    if not wanted:
        raise ConvswapError("nothing to export", do="say --onnx FILE or --pt2 FILE")
    network = opening.open_artifact(artifact_dir, code)
    preprocess = opening.settle(network, data)
    images = opening.example_images(data, preprocess)
    gaps = {kind: write(network, images, path) for kind, (path, write) in wanted.items()}
    document = {"max_abs_diff": gaps, "images": len(images), "real_images": bool(data)}
    console.answer(as_json, document)
    for kind, (path, _) in wanted.items():
        what = "real images" if data else "random inputs (--data SRC checks on real ones)"
        console.note(
            f"{kind}: largest difference from PyTorch {gaps[kind]:.1e} on {len(images)} {what}"
        )
        console.wrote(path)
