"""What the targets share that run ONNX on the CPU."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from types import ModuleType
from typing import ClassVar

from torch import Tensor, nn

from ..errors import ConvswapError
from .machine import check_plain, describe
from .onnx_graphs import OnnxGraphs, in_float32
from .target import Runner, Target


class OnnxCpu(Target):
    """Runs a module as ONNX, in float32. The runtime chooses memory layouts by itself.

    Attributes:
        package: of the runtime.
        extra: of convswap's own package, that installs it.
    """

    package: ClassVar[str]
    extra: ClassVar[str]
    cpu_only = True

    def __init__(self, threads: int, device: str, dtype: str):
        check_plain(self.name, device, dtype)
        self.threads, self.device, self.dtype = threads, device, dtype
        try:
            importlib.import_module("onnx")  # the graphs are made with it
            self._runtime: ModuleType = importlib.import_module(self.package)
        except ImportError as error:
            raise ConvswapError(
                f"target {self.name} needs {error.name}", do=f"pip install 'convswap[{self.extra}]'"
            ) from None
        self._graphs = OnnxGraphs()

    def variants(self, module: nn.Module, x: Tensor) -> dict[str, Runner]:
        """One runner."""
        run = self._compiled(self._graphs.file(module, x), in_float32(x).contiguous())
        run()
        return {"": run}

    def fingerprint(self) -> dict[str, str]:
        """Settings, the versions of PyTorch and of the runtime, the machine."""
        return describe(self, "torch", self.package)

    @abstractmethod
    def _compiled(self, onnx: bytes, x: Tensor) -> Runner:
        """A runner of a file on an input, not run yet."""
