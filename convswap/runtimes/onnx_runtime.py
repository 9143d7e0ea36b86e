"""ONNX Runtime on the CPU."""

from __future__ import annotations

from torch import Tensor

from .onnx_cpu import OnnxCpu
from .target import Runner


class OnnxRuntime(OnnxCpu):
    """Runs a module as ONNX, with all graph optimisations."""

    name = "onnxruntime"
    extra = "onnx"

    def _compiled(self, onnx: bytes, x: Tensor) -> Runner:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        # Idle threads that spin would slow whatever takes its turn next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = self._runtime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: x.numpy()}
        return lambda: session.run(None, feed)
