"""OpenVINO on the CPU."""

from __future__ import annotations

import functools

from torch import Tensor

from .onnx_cpu import OnnxCpu
from .target import Runner


class OpenVino(OnnxCpu):
    """Runs a module as OpenVINO reads it from ONNX, tuned for the time of one pass."""

    name = package = "openvino"
    extra = "openvino"

    def _compiled(self, onnx: bytes, x: Tensor) -> Runner:
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        core = _core()
        compiled = core.compile_model(core.read_model(onnx), "CPU", settings)
        request = compiled.create_infer_request()
        request.set_input_tensor(self._runtime.Tensor(x.numpy()))
        return lambda: list(request.infer(share_outputs=True).values())


@functools.cache
def _core():
    # subtle: one for all, and never let go. Each gives the thread a stack for signal handlers;
    # of two, the first to go takes away what the second puts back when it goes, and the next
    # signal kills the process.
    import openvino

    return openvino.Core()
