"""OpenVINO on the CPU."""

from __future__ import annotations

from torch import Tensor

from .onnx_cpu import OnnxCpu
from .target import Runner


class OpenVino(OnnxCpu):
    """Runs a module as OpenVINO reads it from ONNX, tuned for the time of one pass."""

    name = "openvino"
    extra = "openvino"

    def _compiled(self, onnx: bytes, x: Tensor) -> Runner:
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        core = self._runtime.Core()
        compiled = core.compile_model(core.read_model(onnx), "CPU", settings)
        request = compiled.create_infer_request()
        request.set_input_tensor(self._runtime.Tensor(x.numpy()))
        return lambda: list(request.infer(share_outputs=True).values())
