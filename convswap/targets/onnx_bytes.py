"""Modules as ONNX for one input shape: plain rows of layers in milliseconds, others exported."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from timm.layers import Conv2dSame, get_same_padding
from torch import Tensor, nn

from ..export import write_onnx
from ..graph import deep_copy

OPSET = 18
_IR_VERSION = 10  # of the file format; newer ones need newer runtimes


def onnx_bytes(module: nn.Module, x: Tensor) -> bytes:
    """A module in eval mode as an ONNX file, for inputs of just the shape of `x`."""
    layers = list(_in_a_row(module))
    if all(_is_plain(layer) for layer in layers):
        return _plain(layers, x)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        write_onnx(deep_copy(module).eval().cpu(), x.cpu(), path, free_batch=False)
        return path.read_bytes()


def _in_a_row(module: nn.Module) -> Iterator[nn.Module]:
    if type(module) is not nn.Sequential:
        yield module
        return
    for child in module:
        yield from _in_a_row(child)


def _is_plain(layer: nn.Module) -> bool:
    if type(layer) in (nn.Conv2d, Conv2dSame):
        return layer.padding_mode == "zeros"
    if type(layer) is nn.BatchNorm2d:
        return layer.affine and layer.track_running_stats
    return type(layer) is nn.ReLU


def _plain(layers: list[nn.Module], x: Tensor) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    nodes, tensors = [], []

    def add(operator: str, values: list[Tensor], **attributes: object) -> None:
        at = len(nodes)
        names = [f"{at}.{i}" for i in range(len(values))]
        arrays = [value.detach().cpu().float().numpy() for value in values]
        tensors.extend(map(numpy_helper.from_array, arrays, names))
        nodes.append(helper.make_node(operator, [f"x{at}", *names], [f"x{at + 1}"], **attributes))

    size = x.shape[2:]
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            values = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
            pads, size = _padding(layer, size)
            add("Conv", values, group=layer.groups, strides=layer.stride,
                dilations=layer.dilation, pads=pads)  # fmt: skip
        elif isinstance(layer, nn.BatchNorm2d):
            values = [layer.weight, layer.bias, layer.running_mean, layer.running_var]
            add("BatchNormalization", values, epsilon=layer.eps)
        else:
            add("Relu", [])
    graph = helper.make_graph(
        nodes, "layers",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info(f"x{len(nodes)}", TensorProto.FLOAT, None)],
        tensors,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    return model.SerializeToString()


def _padding(conv: nn.Conv2d, size: Sequence[int]) -> tuple[list[int], list[int]]:
    """Padding (top, left, bottom, right) of a convolution on a map of (height, width), and the
    size of its output. ONNX Runtime has no "same" padding for dilated kernels."""
    axes = list(zip(size, conv.kernel_size, conv.stride, conv.dilation, strict=True))
    if isinstance(conv, Conv2dSame) or conv.padding == "same":
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
