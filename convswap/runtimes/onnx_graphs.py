"""Modules as ONNX for one input shape: exported once, the next like it made from that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from ..forms import Factorized
from ..network.bake import SAME
from ..network.batch import Batch
from ..support.loaded import loaded
from .export import on_cpu, onnx_graph, tidy

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

OPSET = 18
_IR_VERSION = 10  # of the file format; newer ones need newer runtimes

Value = TypeVar("Value")


class OnnxGraphs:
    """Makes ONNX files of modules in eval mode.

    PyTorch's exporter takes 20 ms and more per operator. Rows of common layers are written
    without it, and networks that differ from the last one exported only in rows of
    convolutions, each in place of a convolution, are made from that one's graph.
    """

    def __init__(self):
        self._network: nn.Module | None = None
        self._shape: torch.Size | None = None
        self._graph: ModelProto | None = None

    def file(self, module: nn.Module, x: Tensor) -> bytes:
        """A module as a file for inputs of just the shape of `x`."""
        layers = list(_in_a_row(module))
        if all(_is_plain(layer) for layer in layers):
            return _plain(layers, x).SerializeToString()
        graph = self._from_the_last(module) if x.shape == self._shape else None
        if graph is None:
            self._network, self._shape = on_cpu(module).float(), x.shape
            graph = self._graph = onnx_graph(self._network, Batch((in_float32(x),)))
        return tidy(graph).SerializeToString()

    def _from_the_last(self, module: nn.Module) -> ModelProto | None:
        """The last graph with a module's rows in it; None where that is not the whole change."""
        rows = _rows(self._network, module)
        if rows is None:
            return None
        graph = type(self._graph)()
        graph.CopyFrom(self._graph)
        nodes = list(graph.graph.node)
        del graph.graph.node[:]
        placed = set()
        for node in nodes:
            path = node.input[1].removesuffix(".weight") if node.op_type == "Conv" else ""
            if path not in rows:
                graph.graph.node.append(node)
                continue
            placed.add(path)
            values = [node.input[0], *(f"{node.name}.{i}" for i in range(1, len(rows[path])))]
            values.append(node.output[0])
            for index, conv in enumerate(rows[path]):
                # Where padding is not a convolution's own, the graph has it as a node before.
                own = type(conv) is nn.Conv2d and conv.padding_mode == "zeros"
                pads = _padding(conv, (1, 1))[0] if own else [0] * 4
                made, tensors = _conv(conv, pads, values[index], values[index + 1])
                graph.graph.node.append(made)
                graph.graph.initializer.extend(tensors)
        return graph if placed == set(rows) else None


def _rows(network: nn.Module, module: nn.Module) -> dict[str, nn.Sequential] | None:
    """Path -> row of convolutions in place of a network's; None if more than that differs."""
    here, there = (dict(m.named_modules(remove_duplicate=False)) for m in (network, module))
    rows = {
        path: there[path]
        for path, layer in here.items()
        if isinstance(layer, nn.Conv2d) and isinstance(there.get(path), Factorized)
    }

    def rest(named: Mapping[str, Value]) -> dict[str, Value]:
        inside = tuple(f"{path}." for path in rows)
        return {n: v for n, v in named.items() if n not in rows and not n.startswith(inside)}

    def kinds(modules: Mapping[str, nn.Module]) -> dict[str, tuple[type, str]]:
        return {n: (type(layer), layer.extra_repr()) for n, layer in rest(modules).items()}

    before, after = (
        rest(dict([*m.named_parameters(), *m.named_buffers()])) for m in (network, module)
    )

    def equal(a: Tensor, b: Tensor) -> bool:
        return torch.equal(a, b.cpu().to(a.dtype))

    same = (
        kinds(here) == kinds(there)
        and before.keys() == after.keys()
        and all(equal(before[name], after[name]) for name in before)
        and all(isinstance(layer, nn.Conv2d) for row in rows.values() for layer in row)
    )
    return rows if same else None


def _in_a_row(module: nn.Module) -> Iterator[nn.Module]:
    if type(module) is not nn.Sequential and not isinstance(module, Factorized):
        yield module
        return
    for child in module:
        yield from _in_a_row(child)


def in_float32(x: Tensor) -> Tensor:
    """An input as files take it; whole numbers, such as tokens, stay whole."""
    return x.cpu().float() if x.is_floating_point() else x.cpu()


def _is_plain(layer: nn.Module) -> bool:
    if type(layer) in (nn.Conv2d, *loaded(SAME)):
        return layer.padding_mode == "zeros"
    if type(layer) is nn.BatchNorm2d:
        return layer.affine and layer.track_running_stats
    return type(layer) is nn.ReLU


def _plain(layers: Sequence[nn.Module], x: Tensor) -> ModelProto:
    from onnx import TensorProto, helper

    nodes, tensors = [], []
    size = x.shape[2:]
    for at, layer in enumerate(layers):
        source, result = f"x{at}", f"x{at + 1}"
        if isinstance(layer, nn.Conv2d):
            pads, size = _padding(layer, size)
            node, values = _conv(layer, pads, source, result)
        elif isinstance(layer, nn.BatchNorm2d):
            values = [layer.weight, layer.bias, layer.running_mean, layer.running_var]
            node, values = _node("BatchNormalization", values, source, result, epsilon=layer.eps)
        else:
            node, values = _node("Relu", [], source, result)
        nodes.append(node)
        tensors += values
    graph = helper.make_graph(
        nodes, "layers",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info(f"x{len(layers)}", TensorProto.FLOAT, None)],
        tensors,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)


def _conv(
    conv: nn.Conv2d, pads: Sequence[int], source: str, result: str
) -> tuple[NodeProto, list[TensorProto]]:
    values = [conv.weight] if conv.bias is None else [conv.weight, conv.bias]
    return _node(
        "Conv", values, source, result,
        group=conv.groups, strides=conv.stride, dilations=conv.dilation, pads=pads,
    )  # fmt: skip


def _node(
    operator: str, values: Sequence[Tensor], source: str, result: str, **attributes: object
) -> tuple[NodeProto, list[TensorProto]]:
    """A node that makes `result` of `source`, and its weights."""
    from onnx import helper, numpy_helper

    names = [f"{result}: {operator} {index}" for index in range(len(values))]
    arrays = [value.detach().cpu().float().numpy() for value in values]
    node = helper.make_node(operator, [source, *names], [result], name=result, **attributes)
    return node, [numpy_helper.from_array(*pair) for pair in zip(arrays, names, strict=True)]


def _padding(conv: nn.Conv2d, size: Sequence[int]) -> tuple[list[int], list[int]]:
    """Padding (top, left, bottom, right) of a convolution on a map of (height, width), and the
    size of its output. ONNX Runtime has no "same" padding for dilated kernels."""
    axes = list(zip(size, conv.kernel_size, conv.stride, conv.dilation, strict=True))
    if isinstance(conv, loaded(SAME)) or conv.padding == "same":
        from timm.layers import get_same_padding

        totals = [get_same_padding(*axis) for axis in axes]
        before = [total // 2 for total in totals]
    else:
        before = [0, 0] if conv.padding == "valid" else list(conv.padding)
        totals = [2 * pad for pad in before]
    after = [total - pad for total, pad in zip(totals, before, strict=True)]
    out = [
        (length + total - dilation * (kernel - 1) - 1) // stride + 1
        for (length, kernel, stride, dilation), total in zip(axes, totals, strict=True)
    ]
    return before + after, out
