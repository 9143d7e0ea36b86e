"""PyTorch as it comes: every operator by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..graph import deep_copy
from .machine import check_device, describe
from .target import Runner

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Eager:
    """Runs a copy of the module in each memory layout."""

    name = "eager"

    def __init__(self, threads: int, device: str, dtype: str):
        self.threads, self.device, self.dtype = threads, device, dtype
        check_device(device)
        torch.set_num_threads(threads)

    @property
    def layer_target(self) -> Eager:
        """Itself."""
        return self

    def variants(self, module: nn.Module, x: Tensor) -> dict[str, Runner]:
        """One runner per memory layout."""
        return {layout: self._runner(module, x, layout) for layout in LAYOUTS}

    def fingerprint(self) -> dict[str, str]:
        """Settings, PyTorch's version, the machine."""
        return describe(self, "torch")

    def _runner(self, module: nn.Module, x: Tensor, layout: str) -> Runner:
        call = self._prepared(self._copy(module, LAYOUTS[layout]))
        dtype = getattr(torch, self.dtype)
        x = x.to(self.device, dtype).clone(memory_format=LAYOUTS[layout])
        on_gpu = x.is_cuda

        def run() -> object:
            with torch.inference_mode():
                output = call(x)
            if on_gpu:
                torch.cuda.synchronize(x.device)
            return output

        run()
        return run

    def _copy(self, module: nn.Module, layout: torch.memory_format) -> nn.Module:
        """The module in eval mode where and how it runs; weights that fit already are shared."""
        dtype = getattr(torch, self.dtype)
        memo: dict[int, object] = {}
        for parameter in module.parameters():
            value = parameter.detach().to(self.device)
            value = value.to(dtype) if value.is_floating_point() else value
            value = value.contiguous(memory_format=layout) if value.dim() == 4 else value
            memo[id(parameter)] = nn.Parameter(value, requires_grad=False)
        return deep_copy(module, memo).eval().to(self.device, dtype)

    def _prepared(self, module: nn.Module) -> Callable[[Tensor], object]:
        return module
