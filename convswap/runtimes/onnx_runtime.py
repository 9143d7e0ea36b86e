"""ONNX Runtime on the CPU, in float32 and in 8-bit integers."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from .export import session
from .int8 import export_int8, in_integers, quantised
from .onnx_cpu import OnnxCpu
from .target import Runner


class OnnxRuntime(OnnxCpu):
    """Runs a module as ONNX, with all graph optimisations."""

    name = package = "onnxruntime"
    extra = "onnx"

    def _compiled(self, onnx: bytes, x: Tensor) -> Runner:
        opened = session(onnx, self.threads)
        feed = {opened.get_inputs()[0].name: x.numpy()}
        return lambda: opened.run(None, feed)


class OnnxRuntimeInt8(OnnxRuntime):
    """Runs a module in 8-bit integers, as `export_int8` writes it."""

    name = "onnxruntime-int8"

    def __init__(self, threads: int, device: str, dtype: str):
        super().__init__(threads, device, dtype)
        self.dtype = "int8"

    def computed(self, network: nn.Module, batches: Iterable[object]) -> nn.Module:
        """A network in 8-bit integers; see `in_integers`."""
        return in_integers(network, batches, export_int8)

    def _compiled(self, onnx: bytes, x: Tensor) -> Runner:
        from onnx import load_from_string

        # Time does not depend on ranges: those of one input will do.
        return super()._compiled(quantised(load_from_string(onnx), [x]), x)
