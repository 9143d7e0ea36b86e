"""Networks for other runtimes: ONNX, and torch.export programs that need no convswap."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConvswapError
from ..network.copies import deep_copy
from ..network.match import tensors
from ..support.files import new_file
from ..support.quiet import quiet

if TYPE_CHECKING:
    from onnx import ModelProto

TOLERANCE = 1e-3  # of the largest output; float32 runtimes differ by 1e-5 or so


def export_onnx(model: nn.Module, images: Tensor, path: str | Path) -> float:
    """Write ONNX with a free batch size, checked by ONNX Runtime against PyTorch.

    Args:
        images: real inputs `[n, channels, height, width]`, n >= 2, that both are run on.

    Returns:
        The largest absolute difference of the outputs.

    Raises:
        ConvswapError: a package is missing, or the outputs differ; then nothing is written.
    """
    try:
        import onnxruntime
    except ImportError:
        raise _missing("onnxruntime") from None
    model, images = deep_copy(model).eval().cpu(), images.cpu()
    with new_file(path) as temporary:
        temporary.write_bytes(
            tidy(onnx_graph(model, images[:2], free_batch=True)).SerializeToString()
        )
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        outputs = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        return _largest_gap(model, images, [torch.from_numpy(np.asarray(o)) for o in outputs])


def onnx_graph(model: nn.Module, images: Tensor, *, free_batch: bool) -> ModelProto:
    """A network on the CPU as PyTorch's exporter writes it, before anything is simplified.

    Args:
        images: an input of the shape it is written for; n >= 2 where the batch size is free.

    Raises:
        ConvswapError: a package is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401 - torch.onnx needs them
    except ImportError as error:
        raise _missing(error.name) from None
    shapes = ({0: torch.export.Dim("batch")},) if free_batch else None
    with quiet():
        program = torch.onnx.export(
            model, (images,), dynamo=True, optimize=False, verbose=False, input_names=["images"],
            dynamic_shapes=shapes,
        )  # fmt: skip
    return program.model_proto


def tidy(graph: ModelProto) -> ModelProto:
    """A graph as the exporter simplifies it (constants and batch norm folded), without notes
    on where each operator came from (3 kB an operator)."""
    from onnxscript import optimizer

    with quiet():
        graph = optimizer.optimize(graph)
    for node in graph.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    return graph


def export_program(model: nn.Module, images: Tensor, path: str | Path) -> float:
    """Write a `torch.export` program (.pt2) with a free batch size, checked as above."""
    model, images = deep_copy(model).eval().cpu(), images.cpu()
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    with new_file(path) as temporary, quiet():
        program = torch.export.export(model, (images[:2],), dynamic_shapes=shapes)
        content = io.BytesIO()  # subtle: on a full disk PyTorch's own writer ends the process
        torch.export.save(program, content)
        temporary.write_bytes(content.getvalue())
        outputs = torch.export.load(temporary).module()(images)
        return _largest_gap(model, images, tensors(outputs))


def _missing(package: str | None) -> ConvswapError:
    return ConvswapError(f"ONNX export needs {package}", do="pip install 'convswap[onnx]'")


@torch.no_grad()
def _largest_gap(model: nn.Module, images: Tensor, outputs: list[Tensor]) -> float:
    expected = tensors(model(images))
    gap = max((a - b).abs().max().item() for a, b in zip(expected, outputs, strict=True))
    largest = max(a.abs().max().item() for a in expected)
    if not gap <= TOLERANCE * max(largest, 1.0):
        raise ConvswapError(f"the exported network's outputs differ from PyTorch's by {gap:.2g}")
    return gap
