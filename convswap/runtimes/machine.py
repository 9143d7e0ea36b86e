"""What the machine has and is: what times depend on besides the network, in words."""

from __future__ import annotations

import importlib
import os
import platform
from pathlib import Path

import torch

from ..errors import ConvswapError
from .target import Target


def describe(target: Target, *packages: str) -> dict[str, str]:
    """Fingerprint of a target that runs on some installed packages."""
    on_gpu = torch.device(target.device).type == "cuda"
    return {
        "target": target.name,
        "threads": str(target.threads),
        "device": target.device,
        "dtype": target.dtype,
        "processor": torch.cuda.get_device_name(target.device) if on_gpu else _processor(),
        "cores": str(os.cpu_count()),
        **{package: importlib.import_module(package).__version__ for package in packages},
    }


def check_device(device: str) -> None:
    """Raise `ConvswapError` unless PyTorch can compute there."""
    try:
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # the latter where PyTorch has no CUDA
        problem = str(error).splitlines()[0]
        raise ConvswapError(f"cannot use device {device}: {problem}") from None


def check_plain(name: str, device: str, dtype: str) -> None:
    """Raise `ConvswapError` unless a target that knows only these is asked for CPU and float32."""
    if device != "cpu" or dtype != "float32":
        raise ConvswapError(
            f"target {name} runs on cpu in float32, not on {device} in {dtype}",
            do="use target eager or compile",
        )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
