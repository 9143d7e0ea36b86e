"""PyTorch as it comes: every operator by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..network.copies import deep_copy, in_eval_mode
from ..network.layout import LAST
from ..support.threads import using_threads
from .machine import check_device, describe
from .target import Runner, Target


class Eager(Target):
    """Runs a copy of the module in each memory layout."""

    name = "eager"
    cpu_only = False

    def __init__(self, threads: int, device: str, dtype: str):
        self.threads, self.device, self.dtype = threads, device, dtype
        check_device(device)

    def variants(self, module: nn.Module, x: Tensor) -> dict[str, Runner]:
        """One runner per memory layout that the input can have."""
        layouts = {"contiguous": torch.contiguous_format}
        if x.dim() in LAST:
            layouts["channels_last"] = LAST[x.dim()]
        return {name: self._runner(module, x, layout) for name, layout in layouts.items()}

    def fingerprint(self) -> dict[str, str]:
        """Settings, PyTorch's version, the machine."""
        return describe(self, "torch")

    def _runner(self, module: nn.Module, x: Tensor, layout: torch.memory_format) -> Runner:
        dtype = getattr(torch, self.dtype) if x.is_floating_point() else None
        x = x.to(self.device, dtype).clone(memory_format=layout)
        with using_threads(self.threads):
            call = self._prepared(self._copy(module, layout), x)

        def run() -> object:
            with using_threads(self.threads), torch.inference_mode():
                output = call(x)
                if x.device.type != "cpu":
                    torch.accelerator.synchronize(x.device)
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
            if LAST.get(value.dim()) == layout:
                value = value.contiguous(memory_format=layout)
            memo[id(parameter)] = nn.Parameter(value, requires_grad=False)
        return in_eval_mode(deep_copy(module, memo)).to(self.device, dtype)

    def _prepared(self, module: nn.Module, x: Tensor) -> Callable[[Tensor], object]:
        """What is called in place of the module."""
        return module
