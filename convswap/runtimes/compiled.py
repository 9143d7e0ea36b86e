"""PyTorch's compiler, inductor, for one input shape."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import ConvswapError
from .eager import Eager

NETWORKS = 1000  # that can be compiled in one process
_COMPILER = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")


class Compiled(Eager):
    """Runs what `torch.compile` makes of a copy of the module in each memory layout."""

    name = "compile"

    def __init__(self, threads: int, device: str, dtype: str):
        super().__init__(threads, device, dtype)
        compiler = os.environ.get("CXX", _COMPILER)
        if not shutil.which(compiler):
            raise ConvswapError(
                f"target compile needs a C++ compiler, and there is no {compiler}",
                do="install one, or name it in the environment variable CXX",
            )
        if torch.device(device).type == "cuda" and not importlib.util.find_spec("triton"):
            raise ConvswapError("target compile on a GPU needs triton", do="pip install triton")

    @property
    def layer_target(self) -> Eager:
        """PyTorch eager: it calls the same convolutions, and hundreds of compilations would
        take hours. What fusion saves shows only when whole networks are measured."""
        return Eager(self.threads, self.device, self.dtype)

    def _prepared(self, module: nn.Module, x: Tensor) -> Callable[[Tensor], object]:
        compiled = torch.compile(module, dynamic=False)
        # subtle: networks of one class share their compiled code, of which by default only 8
        # versions are kept; those compiled later would run in eager, and nobody would know
        limits = {"recompile_limit": NETWORKS, "accumulated_recompile_limit": NETWORKS}
        with torch.inference_mode(), torch._dynamo.config.patch(limits):
            compiled(x)
        return compiled
