"""Networks for other runtimes: ONNX."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from ..errors import ConvswapError, one_line
from ..network.copies import deep_copy, first_line, in_eval_mode
from ..network.trees import tensors_in
from ..support.files import new_file
from ..support.quiet import quiet, silent_streams

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

TOLERANCE = 1e-3  # of the largest output; float32 runtimes differ by 1e-5 or so
FLIPPED = 0.01  # share of whole numbers, such as the best class, that rounding may change
AXES = {0: "batch", 2: "height", 3: "width"}
EARLIEST = 18  # opset that PyTorch's exporter writes


def export_onnx(
    model: nn.Module,
    images: Tensor,
    path: str | Path,
    *,
    batch: int | None = None,
    free_size: bool = False,
    opset: int | None = None,
) -> float:
    """Write ONNX, checked by ONNX Runtime against PyTorch.

    Args:
        images: real inputs `[n, channels, height, width]`, n >= 2, that both are run on.
        batch: the only batch size it takes; default: any.
        free_size: whether height and width are free as well; then both are run on a larger size
            too.
        opset: version of the ONNX operators; default: PyTorch's own choice.

    Returns:
        The largest absolute difference of the outputs; integers and truth values do not count,
        which may differ only where rounding decides.

    Raises:
        ConvswapError: a package is missing, the network cannot be written like that, or the
            outputs differ; then nothing is written.
    """
    model, images = on_cpu(model), images.cpu()
    free = free_axes(batch, free_size)
    if batch is None:
        tried = [images[:2], images[:1], images]
    else:
        rounds = -(-len(images) // batch)
        tried = [*images[torch.arange(rounds * batch) % len(images)].split(batch)]
    if free_size:
        height, width = images.shape[2:]
        tried.append(F.interpolate(tried[0], (2 * height, 3 * width)))
    with new_file(path) as temporary:
        graph = onnx_graph(model, tried[0], free=free, opset=opset)
        temporary.write_bytes(tidy(graph).SerializeToString())
        try:
            network = OnnxNetwork(temporary)
            return max(largest_gap(model, each, network(each)) for each in tried)
        except ConvswapError:
            raise
        except Exception as error:  # such as a size that the network, or the file, does not take
            sizes = dict.fromkeys("x".join(map(str, each.shape)) for each in tried)
            raise ConvswapError(
                f"what was written does not run on {' and '.join(sizes)}: {why_not(error)}",
                do="say how many images it is to take, batch=1" if batch is None else "",
            ) from error


def free_axes(batch: int | None, free_size: bool) -> tuple[int, ...]:
    """Axes of the input that may have any length."""
    return (*((0,) if batch is None else ()), *((2, 3) if free_size else ()))


def on_cpu(model: nn.Module) -> nn.Module:
    """A copy of a network on the CPU in eval mode, that puts out what exporters know."""
    model = in_eval_mode(deep_copy(model)).cpu()
    model.register_forward_hook(_in_a_tuple)
    return model


def _in_a_tuple(model: nn.Module, args: tuple, output: object) -> tuple[Tensor, ...] | None:
    """All tensors of an output in order, where it holds some in classes of the user's own."""
    leaves = [leaf for leaf in tree_leaves(output) if not isinstance(leaf, Tensor)]
    return tuple(tensors_in(output)) if any(map(tensors_in, leaves)) else None


class OnnxNetwork(nn.Module):
    """An ONNX file, or its content, as a network that ONNX Runtime runs on the CPU. It puts out a
    tuple.

    Attributes:
        bytes: of the file.
    """

    def __init__(self, file: Path | bytes):
        super().__init__()
        self.bytes = len(file) if isinstance(file, bytes) else file.stat().st_size
        self._session = session(file, torch.get_num_threads())
        self._input = self._session.get_inputs()[0].name

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """`[n, channels, height, width]`, float32."""
        outputs = self._session.run(None, {self._input: images.cpu().numpy()})
        return tuple(torch.from_numpy(np.asarray(each)).to(images.device) for each in outputs)


def session(file: Path | bytes, threads: int) -> InferenceSession:
    """A file, or its content, in ONNX Runtime on the CPU, with all graph optimisations.

    Raises:
        ConvswapError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise _missing("onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Idle threads that spin would slow whatever takes its turn next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def onnx_graph(
    model: nn.Module, images: Tensor, *, free: Sequence[int] = (), opset: int | None = None
) -> ModelProto:
    """A network on the CPU as PyTorch's exporter writes it, before anything is simplified; where
    that cannot (what a detector does next depends on what it has found), the older one does for a
    batch size that is not free.

    Args:
        images: an input of the shape it is written for; n >= 2 where the batch size is free.
        free: axes of the input that may have any length, of 0 (batch), 2 and 3.
        opset: version of the operators; one before 18 is written by PyTorch's older exporter.

    Raises:
        ConvswapError: a package is missing, or the network cannot be written like that.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch.onnx needs them
    except ImportError as error:
        raise _missing(error.name) from None
    named = {axis: AXES[axis] for axis in free}
    settings = {"input_names": ["images"], "verbose": False}

    def newer() -> ModelProto:
        lengths = {axis: torch.export.Dim(name) for axis, name in named.items()}
        return torch.onnx.export(
            model, (images,), dynamo=True, optimize=False, opset_version=opset,
            dynamic_shapes=(lengths,) if free else None, **settings,
        ).model_proto  # fmt: skip

    def older() -> ModelProto:
        written = io.BytesIO()
        torch.onnx.export(
            model, (images,), written, dynamo=False, opset_version=opset or EARLIEST - 1,
            dynamic_axes={"images": named}, **settings,
        )  # fmt: skip
        return onnx.load_from_string(written.getvalue())

    ways = [older] if opset and opset < EARLIEST else [newer]
    if opset is None and 0 not in free:  # subtle: it follows the way one batch takes
        ways.append(older)
    problems = []
    for write in ways:
        try:
            with quiet(), silent_streams():
                graph = write()
            if opset not in (None, _opset(graph)):
                raise ValueError("the version is not known to this PyTorch")
            return graph
        except Exception as error:  # exporters raise whatever they like
            problems.append(error)
    asked = [f"opset {opset}"] * bool(opset) + [f"free {name}" for name in named.values()]
    raise ConvswapError(
        f"PyTorch cannot write the network as ONNX with {', '.join(asked) or 'a fixed size'}: "
        f"{why_not(problems[0])}"
    ) from problems[0]


def tidy(graph: ModelProto) -> ModelProto:
    """A graph as the exporter simplifies it (constants and batch norm folded), without notes
    on where each operator came from (3 kB an operator)."""
    from onnxscript import optimizer

    if _opset(graph) >= EARLIEST:  # the older exporter has done so, in the operators of its time
        with quiet():
            graph = optimizer.optimize(graph)
    for node in graph.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    return graph


def _opset(graph: ModelProto) -> int:
    return next(each.version for each in graph.opset_import if not each.domain)


def why_not(error: BaseException) -> str:
    """What an exporter fails on, in one line: it wraps that in advice of many."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(first_line(error), 300)


def _missing(package: str | None) -> ConvswapError:
    return ConvswapError(f"ONNX export needs {package}", do="pip install 'convswap[onnx]'")


@torch.no_grad()
def largest_gap(model: nn.Module, images: Tensor, outputs: object) -> float:
    """The largest absolute difference of a network's outputs from those that a file gave, in order.

    Integers and truth values are to be equal, but for a small share: where two classes are level
    but for rounding, either may be put out as the best.

    Raises:
        ConvswapError: it is no rounding.
    """
    expected, found = (
        [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
        for tree in (model(images), outputs)
    )
    if [each.shape for each in expected] != [each.shape for each in found]:
        raise ConvswapError(
            "the exported network's outputs differ from PyTorch's in number or size"
        )
    gap, largest = 0.0, 1.0
    for ours, theirs in zip(expected, found, strict=True):
        differs = ours != theirs  # also where both are infinite they do not
        if not differs.any():
            continue
        if ours.is_floating_point() or ours.is_complex():
            gap = max(gap, (ours - theirs)[differs].abs().nan_to_num(math.inf).max().item())
            largest = max(largest, ours.abs().nan_to_num(0, 0, 0).max().item())
        elif (share := differs.double().mean().item()) > FLIPPED:
            raise ConvswapError(
                f"{100 * share:.3g} % of the exported network's whole numbers differ from PyTorch's"
            )
    if not gap <= TOLERANCE * largest:
        raise ConvswapError(f"the exported network's outputs differ from PyTorch's by {gap:.2g}")
    return gap
