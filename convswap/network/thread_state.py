"""What PyTorch keeps per thread, for code that takes turns in one thread, and for code that may
fail in the middle of changing it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.overrides import _pop_mode as pop_mode
from torch.overrides import _push_mode as push_mode

AUTOCAST = ("cpu", "cuda")


@dataclass(frozen=True)
class ThreadState:
    """Gradients, inference mode, autocast, and function modes (the default device among them)."""

    grad: bool
    inference: bool
    autocast: tuple[tuple[str, bool, torch.dtype], ...]
    modes: tuple[TorchFunctionMode, ...]

    @classmethod
    def taken(cls) -> ThreadState:
        """As it is now."""
        return cls(
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            tuple((d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in AUTOCAST),
            tuple(_get_current_function_mode_stack()),
        )

    @contextmanager
    def active(self) -> Iterator[None]:
        """This state inside; afterwards that of before, whatever was left behind."""
        before = ThreadState.taken()
        try:
            with torch.inference_mode(self.inference):  # subtle: it also sets the grad mode
                self._set()
                yield
        finally:
            before._set()

    def _set(self) -> None:
        torch.set_grad_enabled(self.grad)
        for device, enabled, dtype in self.autocast:
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)
        for _ in _get_current_function_mode_stack():
            pop_mode()
        for mode in self.modes:
            push_mode(mode)


@contextmanager
def preserved() -> Iterator[None]:
    """The state of the thread is the same afterwards, whatever happens inside."""
    with ThreadState.taken().active():
        yield


class _Caller(threading.local):
    """Of an `undisturbed` function."""

    device: torch.device | None = None


_caller = _Caller()


def undisturbed(function: Callable) -> Callable:
    """A function that runs as it does by itself, whatever its caller is inside of: inference mode,
    autocast, a default device, which is for the network's own code (`on_callers_device`)."""

    @wraps(function)
    def run(*args, **kwargs):
        before, device = _caller.device, torch.get_default_device()
        autocast = tuple((d, False, torch.get_autocast_dtype(d)) for d in AUTOCAST)
        if device != torch.device("cpu"):  # else one may have called another
            _caller.device = device
        try:
            with ThreadState(grad=True, inference=False, autocast=autocast, modes=()).active():
                return function(*args, **kwargs)
        finally:
            _caller.device = before

    return run


def on_callers_device(inputs: Sequence[Tensor]) -> AbstractContextManager:
    """What is made inside is on the default device of who called, if the inputs are."""
    device = _caller.device
    there = device and any(tensor.device.type == device.type for tensor in inputs)
    return device if there else nullcontext()


@contextmanager
def gradients_flow() -> Iterator[None]:
    """Gradients are computed inside, whatever the code that runs says: many networks hold a
    frozen trunk under `torch.no_grad()`, or run under `torch.inference_mode()`."""
    guard = torch._C._InferenceMode
    with torch.inference_mode(False), torch.enable_grad(), _KeepGradients():
        torch._C._InferenceMode = _NoGuard  # subtle: what `torch.inference_mode` enters
        try:
            yield
        finally:
            torch._C._InferenceMode = guard


@contextmanager
def differentiable() -> Iterator[None]:
    """A pass there and back inside can do what PyTorch does not differentiate else: change in place
    what gradients need, and compute gradients of its own, of which there are gradients again.
    Checkpoints that know `backward` only are not used."""
    checkpointed = torch.utils.checkpoint.CheckpointFunction
    with torch.autograd.graph.allow_mutation_on_saved_tensors(), _KeepGraphs():
        torch.utils.checkpoint.CheckpointFunction = _NotCheckpointed
        try:
            yield
        finally:
            torch.utils.checkpoint.CheckpointFunction = checkpointed


class _NotCheckpointed:
    @staticmethod
    def apply(function: Callable, preserve: bool, *args: object) -> object:
        return function(*args)


class _KeepGraphs(TorchFunctionMode):
    """What gradients are computed of can be differentiated once more."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.autograd.grad:
            kwargs = {**(kwargs or {}), "create_graph": True}
        return func(*args, **(kwargs or {}))


class _NoGuard:
    def __init__(self, mode: bool):
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


class _KeepGradients(TorchFunctionMode):
    """Nobody switches gradients off."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch._C._set_grad_enabled:
            return None
        return func(*args, **(kwargs or {}))
