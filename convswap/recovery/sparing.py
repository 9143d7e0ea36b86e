"""Where memory is short, blocks hold nothing but their inputs until the way back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.jit import ScriptModule
from torch.multiprocessing.reductions import StorageWeakRef

from ..network.calls import Batch
from ..network.memory import free_bytes
from ..support.randomness import seeded
from .losses import Task
from .training import fresh

SHARE = 0.5  # of the memory that is free may be held for the way back
PART = 0.25  # of all that is held: larger modules are looked into for blocks
CLOSE = 1e-3  # share of a gradient's largest entry that computing again may change


def spare_memory_(task: Task, batch: Batch, tell: Callable[[str], None]) -> None:
    """Have blocks of the student computed again where a step on such a batch would hold too much;
    they are left as they are where gradients become others by it."""
    free, sample = free_bytes(next(task.student.parameters()).device), batch.take(slice(1))
    if free is None:
        return
    try:
        held, wanted = _held(task, sample)
        if held[""] * len(batch) <= SHARE * free:
            return
        task.blocks = _blocks(task.student, held)
        _, again = _held(task, sample)
    except Exception:  # whatever it is, it comes again where it is told of
        task.blocks = ()
        return
    if not all(map(_close, again, wanted)):
        task.blocks = ()
    steps = f"steps on {len(batch)} samples hold about {held[''] * len(batch) / 2**30:.2g} GiB"
    does = "blocks are computed twice" if task.blocks else "smaller batches take less"
    tell(f"{steps}, and {free / 2**30:.2g} GiB are free: {does}")


def _held(task: Task, batch: Batch) -> tuple[Counter[str], list[Tensor | None]]:
    """Bytes that each module holds between a pass there and back, by path, its own modules'
    included, and what the pass gives: the gradients of all parameters."""
    student = task.student
    known = {StorageWeakRef(p.untyped_storage()) for p in (*student.parameters(), *batch.tensors)}
    held: Counter[str] = Counter()
    inside: list[str] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if StorageWeakRef(storage) not in known:
            known.add(StorageWeakRef(storage))
            held.update({path: storage.nbytes() for path in ("", *inside)})
        return tensor

    with ExitStack() as stack:
        for path, module in student.named_modules():
            if path:
                enter = module.register_forward_pre_hook(lambda *_, path=path: inside.append(path))
                leave = module.register_forward_hook(lambda *_: inside.pop() and None)
                stack.callback(enter.remove)
                stack.callback(leave.remove)
        with seeded(0), saved_tensors_hooks(pack, lambda tensor: tensor):
            task(batch).loss.backward()
    gradients = [parameter.grad for parameter in student.parameters()]
    student.zero_grad()
    fresh(student)
    return held, gradients


def _blocks(network: nn.Module, held: Counter[str], path: str = "") -> tuple[str, ...]:
    """Paths of the largest modules that hold no more than a part, and consist of others."""
    found: tuple[str, ...] = ()
    for name, child in network.named_children():
        inner = f"{path}.{name}".lstrip(".")
        if held[inner] > PART * held[""]:
            found += _blocks(child, held, inner)
        elif held[inner] and any(child.children()) and not isinstance(child, ScriptModule):
            found += (inner,)
    return found


def _close(ours: Tensor | None, theirs: Tensor | None) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    if not ours.numel():
        return True
    return bool((ours - theirs).abs().max() <= CLOSE * theirs.abs().max())
