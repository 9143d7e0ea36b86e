"""OpenVINO on the CPU."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import ConvswapError
from .machine import describe, only_cpu_float32
from .onnx_bytes import onnx_bytes
from .target import Runner


class OpenVino:
    """Runs a module as OpenVINO reads it from ONNX, tuned for the time of one pass."""

    name = "openvino"

    def __init__(self, threads: int, device: str, dtype: str):
        only_cpu_float32(self.name, device, dtype)
        self.threads, self.device, self.dtype = threads, device, dtype
        try:
            import onnx  # noqa: F401 - the graphs are made with it
            import openvino
        except ImportError as error:
            raise ConvswapError(
                f"target openvino needs {error.name}", do="pip install 'convswap[openvino]'"
            ) from None
        self._openvino = openvino
        self._core = openvino.Core()

    @property
    def layer_target(self) -> OpenVino:
        """Itself."""
        return self

    def variants(self, module: nn.Module, x: Tensor) -> dict[str, Runner]:
        """One runner: the runtime chooses the layout."""
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        model = self._core.read_model(onnx_bytes(module, x))
        request = self._core.compile_model(model, "CPU", settings).create_infer_request()
        request.set_input_tensor(self._openvino.Tensor(x.cpu().float().contiguous().numpy()))

        def run() -> object:
            return list(request.infer(share_outputs=True).values())

        run()
        return {"": run}

    def fingerprint(self) -> dict[str, str]:
        """Settings, the versions of PyTorch and OpenVINO, the machine."""
        return describe(self, "torch", "openvino")
