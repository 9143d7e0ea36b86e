"""PyTorch as it comes: every operator by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..network.copies import deep_copy
from .machine import check_device, describe
from .target import Runner

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Eager:
    """Runs a copy of the module in each memory layout."""

    name = "eager"
    cpu_only = False

    def __init__(self, threads: int, device: str, dtype: str):
        self.threads, self.device, self.dtype = threads, device, dtype
        check_device(device)

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
        x = x.to(self.device, getattr(torch, self.dtype)).clone(memory_format=LAYOUTS[layout])
        with self._threads():
            call = self._prepared(self._copy(module, LAYOUTS[layout]), x)

        def run() -> object:
            with self._threads(), torch.inference_mode():
                output = call(x)
                if x.device.type != "cpu":
                    torch.accelerator.synchronize(x.device)
            return output

        run()
        return run

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """PyTorch uses as many threads as the target says inside."""
        before = torch.get_num_threads()
        if before == self.threads:
            yield
            return
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

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

    def _prepared(self, module: nn.Module, x: Tensor) -> Callable[[Tensor], object]:
        """What is called in place of the module."""
        return module
