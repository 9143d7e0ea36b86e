"""Networks for other runtimes: ONNX."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..errors import ConvswapError, one_line
from ..network.calls import Batch, read_batch
from ..network.copies import deep_copy, first_line, in_eval_mode, shared_copy
from ..network.match import tensors
from ..network.trees import tensors_in
from ..support.files import new_file
from ..support.quiet import quiet, silent_streams
from .gap import largest_gap
from .inputs import TakesTensors, free_lengths, input_names, shown

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

SMALL = 1e-8  # what rules that tidy a graph take for zero
EARLIEST = 18  # opset that PyTorch's exporter writes
_SQUEEZES = {torch.squeeze, torch.Tensor.squeeze, torch.Tensor.squeeze_}
ONE = "say how many samples it is to take, batch=1"
FLOAT = "export it in single precision, model.float(): ONNX Runtime knows few layers in others"


def export_onnx(
    model: nn.Module,
    inputs: object,
    path: str | Path,
    *,
    batch: int | None = None,
    free_size: bool = False,
    opset: int | None = None,
) -> float:
    """Write ONNX, checked by ONNX Runtime against PyTorch.

    Args:
        inputs: a batch of real inputs, of two samples at least where the batch size is free, that
            both are run on: images `[n, channels, height, width]`, or a batch as `plan` takes it
            (a tuple, a mapping, with labels or without). Of inputs other than images, the file has
            those that are tensors, by the names of the arguments of `forward`.
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
        DataError: the inputs hold no tensor, or values that are not finite.
    """
    model = on_cpu(model)
    alike, others = shown(read_batch(model, inputs), batch, free_size)
    tried, names = [*alike, *others], input_names(model, alike[0])
    with new_file(path) as temporary:
        graph = onnx_graph(model, alike[0], others=others, opset=opset)
        temporary.write_bytes(tidy(graph).SerializeToString())
        try:
            network = OnnxNetwork(temporary, names)
            return max(
                largest_gap(model, each, network(*each.tensors), ONE if batch is None else "")
                for each in tried
            )
        except ConvswapError:
            raise
        except Exception as error:  # such as a size that the network, or the file, does not take
            sizes = dict.fromkeys(
                "x".join(map(str, t.shape)) for each in tried for t in each.tensors
            )
            in_float32 = all(each.dtype == torch.float32 for each in model.parameters())
            raise ConvswapError(
                f"what was written does not run on {' and '.join(sizes)}: {why_not(error)}",
                do=(ONE if batch is None else "") if in_float32 else FLOAT,
            ) from error


def on_cpu(model: nn.Module) -> nn.Module:
    """A copy of a network on the CPU in eval mode, that puts out what exporters know."""
    model = in_eval_mode(deep_copy(model)).cpu()
    model.register_forward_hook(_in_a_tuple)
    return model


def _in_a_tuple(model: nn.Module, args: tuple, output: object) -> tuple[Tensor, ...] | None:
    """All tensors of an output in order, where it holds something that exporters do not know:
    tensors in a class of the user's own or in a tuple that has names, as `torch.max` gives, or what
    no tensors are found in, such as caches."""
    plain = (Tensor, bool, int, float, str, type(None))
    names = ("_fields", "n_fields")  # the user's, and PyTorch's own
    leaves = tree_leaves(output, is_leaf=lambda tree: any(hasattr(tree, name) for name in names))
    known = all(isinstance(leaf, plain) for leaf in leaves)
    return None if known else tuple(tensors_in(output) or tensors(output))


class OnnxNetwork(nn.Module):
    """An ONNX file, or its content, as a network that ONNX Runtime runs on the CPU. It puts out a
    tuple.

    Args:
        names: of the inputs it is given, in order; default: those of the file, which may lack some
            that are not used.

    Attributes:
        bytes: of the file.
    """

    def __init__(self, file: Path | bytes, names: Sequence[str] = ()):
        super().__init__()
        self.bytes = len(file) if isinstance(file, bytes) else file.stat().st_size
        self._session = session(file, torch.get_num_threads())
        self._read = [each.name for each in self._session.get_inputs()]
        self._names = names or self._read

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The inputs in order; images are `[n, channels, height, width]`, float32."""
        given = dict(zip(self._names, inputs, strict=True))
        outputs = self._session.run(None, {name: given[name].cpu().numpy() for name in self._read})
        return tuple(torch.from_numpy(np.asarray(each)).to(inputs[0].device) for each in outputs)


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
    model: nn.Module, batch: Batch, *, others: Sequence[Batch] = (), opset: int | None = None
) -> ModelProto:
    """A network on the CPU as PyTorch's exporter writes it, before anything is simplified; where
    that cannot (what a detector does next depends on what it has found), the older one does for a
    batch size that is not free.

    Args:
        batch: what it is written for.
        others: batches that differ from it in the lengths that are free; see `shown`.
        opset: version of the operators; one before 18 is written by PyTorch's older exporter.

    Raises:
        ConvswapError: a package is missing, or the network cannot be written like that.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch.onnx needs them
    except ImportError as error:
        raise _missing(error.name) from None
    names, tensors = input_names(model, batch), tuple(batch.tensors)
    free = free_lengths(batch, others)
    lengths = dict.fromkeys(name for axes in free for name in axes.values())
    settings = {"input_names": names, "verbose": False}

    def newer(model: nn.Module) -> ModelProto:
        known = {name: torch.export.Dim(name) for name in lengths}
        shapes = tuple({axis: known[name] for axis, name in axes.items()} for axes in free)
        return torch.onnx.export(
            model, tensors, dynamo=True, optimize=False, opset_version=opset,
            dynamic_shapes=(shapes,) if lengths else None, **settings,
        ).model_proto  # fmt: skip

    def older(model: nn.Module) -> ModelProto:
        written = io.BytesIO()
        torch.onnx.export(
            model, tensors, written, dynamo=False, opset_version=opset or EARLIEST - 1,
            dynamic_axes=dict(zip(names, free, strict=True)), **settings,
        )  # fmt: skip
        return onnx.load_from_string(written.getvalue())

    ways = [older] if opset and opset < EARLIEST else [newer]
    if opset is None and "batch" not in lengths:  # subtle: it follows the way one batch takes
        ways.append(older)
    problems = []
    for write in ways:
        try:
            # subtle: a network that keeps grids or anchors would keep those of the exporter
            traced = TakesTensors(shared_copy(model), batch)
            with quiet(), silent_streams(), _Writable():
                graph = write(traced)
            if opset not in (None, _opset(graph)):
                raise ValueError("the version is not known to this PyTorch")
            return graph
        except Exception as error:  # exporters raise whatever they like
            problems.append(error)
    asked = [f"opset {opset}"] * bool(opset) + [f"free {name}" for name in lengths]
    raise ConvswapError(
        f"PyTorch cannot write the network as ONNX with {', '.join(asked) or 'a fixed size'}: "
        f"{why_not(problems[0])}",
        do=ONE if "batch" in lengths else "",
    ) from problems[0]


class _Writable(TorchFunctionMode):
    """What PyTorch's exporter would write as something else, in words that mean the same: batch
    norms that norm by what they read are given no other statistics, by which it would have them
    norm, and axes of more than one number, which PyTorch leaves as they are, are not squeezed."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.batch_norm and kwargs["training"]:
            args = (args[0], None, None)
        if func in _SQUEEZES and len(args) + len(kwargs) > 1 and not torch.jit.is_tracing():
            x, axes = (*args, *(kwargs[name] for name in ("input", "dim") if name in kwargs))
            axes = (axes,) if isinstance(axes, int) else axes
            ones = [axis for axis in axes if not x.dim() or _is_one(x.shape[axis])]
            return func(x, ones) if ones else x
        return func(*args, **kwargs)


def _is_one(length: int | torch.SymInt) -> bool:
    """Whether an axis has one number; one whose length is free has more."""
    return isinstance(length, int) and length == 1


def tidy(graph: ModelProto) -> ModelProto:
    """A graph as the exporter simplifies it (constants and batch norm folded), without notes
    on where each operator came from (3 kB an operator)."""
    from onnxscript import optimizer

    _keep_apart_(graph)
    _keep_small_(graph)
    if _opset(graph) >= EARLIEST:  # the older exporter has done so, in the operators of its time
        with quiet():
            graph = optimizer.optimize(graph)
    for node in graph.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    return graph


def _keep_apart_(graph: ModelProto) -> None:
    """Have inputs that a network hands on put out under names of their own: else it is the inputs
    that are renamed."""
    from onnx.helper import make_node

    inputs = {each.name for each in graph.graph.input}
    for index, each in enumerate(graph.graph.output):
        if each.name in inputs:
            name = f"{each.name}_out_{index}"
            graph.graph.node.append(make_node("Identity", [each.name], [name]))
            each.name = name


def _keep_small_(graph: ModelProto) -> None:
    """Have numbers that are added, and all but zero, be vectors of one number. Scalars of up to
    1e-8 the exporter's rules take for zero, and omit, be it what keeps a denominator from zero."""
    from onnx.numpy_helper import from_array, to_array

    scalars = {each.name: to_array(each) for each in graph.graph.initializer if not each.dims}
    for node in graph.graph.node:
        for each in node.attribute if node.op_type == "Constant" else ():
            if each.name == "value" and not each.t.dims:
                scalars[node.output[0]] = to_array(each.t)
            elif each.name == "value_float":
                scalars[node.output[0]] = np.float32(each.f)
    axes = {each.name: each.type.tensor_type.shape.dim for each in graph.graph.value_info}
    for node in graph.graph.node:
        for index, name in enumerate(node.input if node.op_type in ("Add", "Sub") else ()):
            small = name in scalars and 0 < abs(scalars[name]) <= SMALL
            if small and axes.get(node.output[0]):  # the sum is no scalar
                node.input[index] = f"{name}_of_{node.output[0]}"
                vector = from_array(scalars[name].reshape(1), node.input[index])
                graph.graph.initializer.append(vector)


def _opset(graph: ModelProto) -> int:
    return next(each.version for each in graph.opset_import if not each.domain)


def why_not(error: BaseException) -> str:
    """What an exporter fails on, in one line: it wraps that in advice of many."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(first_line(error), 300)


def _missing(package: str | None) -> ConvswapError:
    return ConvswapError(f"ONNX export needs {package}", do="pip install 'convswap[onnx]'")
