"""ONNX Runtime on the CPU."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import ConvswapError
from .machine import describe, only_cpu_float32
from .onnx_bytes import onnx_bytes
from .target import Runner


class OnnxRuntime:
    """Runs a module as ONNX, with all graph optimisations."""

    name = "onnxruntime"

    def __init__(self, threads: int, device: str, dtype: str):
        only_cpu_float32(self.name, device, dtype)
        self.threads, self.device, self.dtype = threads, device, dtype
        try:
            import onnx  # noqa: F401 - the graphs are made with it
            import onnxruntime
        except ImportError as error:
            raise ConvswapError(
                f"target onnxruntime needs {error.name}", do="pip install 'convswap[onnx]'"
            ) from None
        self._runtime = onnxruntime

    @property
    def layer_target(self) -> OnnxRuntime:
        """Itself."""
        return self

    def variants(self, module: nn.Module, x: Tensor) -> dict[str, Runner]:
        """One runner: the runtime chooses the layout."""
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        # Idle threads that spin would slow whatever takes its turn next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = self._runtime.InferenceSession(
            onnx_bytes(module, x), options, providers=["CPUExecutionProvider"]
        )
        feed = {session.get_inputs()[0].name: x.cpu().float().numpy()}

        def run() -> object:
            return session.run(None, feed)

        run()
        return {"": run}

    def fingerprint(self) -> dict[str, str]:
        """Settings, the versions of PyTorch and ONNX Runtime, the machine."""
        return describe(self, "torch", "onnxruntime")
