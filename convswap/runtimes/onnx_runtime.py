"""ONNX Runtime on the CPU."""

from __future__ import annotations

from torch import Tensor

from .export import session
from .onnx_cpu import OnnxCpu
from .target import Runner


class OnnxRuntime(OnnxCpu):
    """Runs a module as ONNX, with all graph optimisations."""

    name = "onnxruntime"
    extra = "onnx"

    def _compiled(self, onnx: bytes, x: Tensor) -> Runner:
        opened = session(onnx, self.threads)
        feed = {opened.get_inputs()[0].name: x.numpy()}
        return lambda: opened.run(None, feed)
