"""ONNX Runtime on the CPU, in float32 and in 8-bit integers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..record import record_of, remember
from .export import on_cpu, session
from .int8 import AT_ONCE, IMAGES, export_int8, images_of, quantised
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
        """A network in 8-bit integers, with ranges as seen on some hundred of the inputs."""
        some = torch.cat(images_of(on_cpu(network), batches))[:IMAGES].split(AT_ONCE)
        with tempfile.TemporaryDirectory() as folder:
            made, _ = export_int8(network, some, Path(folder) / "network.onnx")
        return remember(made, **dict(record_of(network)))

    def _compiled(self, onnx: bytes, x: Tensor) -> Runner:
        from onnx import load_from_string

        # Time does not depend on ranges: those of one input will do.
        return super()._compiled(quantised(load_from_string(onnx), [x]), x)
