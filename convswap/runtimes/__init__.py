"""What runs networks: one file per runtime, the only place that knows its interface.

A target is asked for *runners*: functions without arguments that run one forward pass, with
everything that is done once (export, compilation, a first pass) behind them. Whoever times
them knows nothing of runtimes. To add one, write its file and list it in `TARGETS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import ConvswapError, TargetError
from ..plans import THREADS
from .compiled import Compiled
from .eager import Eager
from .litert import LiteRt, LiteRtInt8
from .onnx_runtime import OnnxRuntime, OnnxRuntimeInt8
from .openvino import OpenVino
from .target import Runner, Target

__all__ = ["TARGETS", "Runner", "Target", "device_for", "open_target", "running", "target_of"]

TARGETS: dict[str, type[Target]] = {
    target.name: target
    for target in (Eager, Compiled, OnnxRuntime, OnnxRuntimeInt8, OpenVino, LiteRt, LiteRtInt8)
}


def open_target(
    name: str, *, threads: int | None = None, device: str = "cpu", dtype: str = "float32"
) -> Target:
    """A target by name, ready to use.

    Args:
        threads: CPU threads, 1 to `plans.THREADS`; default: as many as PyTorch uses.
        dtype: name of a floating-point type; networks are cast to it in a copy.

    Raises:
        ConvswapError: unknown or not installed, or it has no such device, type or number of
            threads.
    """
    if name not in TARGETS:
        raise ConvswapError(f"unknown target {name}", do=f"choose one of {', '.join(TARGETS)}")
    if not getattr(getattr(torch, dtype, None), "is_floating_point", False):
        raise ConvswapError(
            f"{dtype} is not a floating-point type", do="say float32, float16 or bfloat16"
        )
    threads = torch.get_num_threads() if threads is None else threads
    if not isinstance(threads, int) or not 1 <= threads <= THREADS:
        raise ConvswapError(f"threads must be a whole number from 1 to {THREADS}, not {threads!r}")
    return TARGETS[name](threads, device, dtype)


def device_for(name: str, device: str) -> str:
    """Where a target runs what is fitted on a device."""
    return "cpu" if name in TARGETS and TARGETS[name].cpu_only else device


def target_of(model: nn.Module) -> Target:
    """PyTorch eager, where and in what type a network is."""
    first = next(model.parameters())
    dtype = str(first.dtype).removeprefix("torch.")
    return open_target("eager", device=str(first.device), dtype=dtype)


@contextmanager
def running(target: Target, what: str) -> Iterator[None]:
    """Whatever a runtime raises inside becomes a `TargetError` that names it and `what` it ran."""
    try:
        yield
    except ConvswapError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise TargetError(f"target {target.name} cannot run {what}: {lines[0]}") from error
