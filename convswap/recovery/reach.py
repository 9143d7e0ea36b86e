"""Which layers training gets to."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..errors import ConvswapError, DataError
from ..network.calls import Batch
from ..network.copies import first_line
from ..network.thread_state import differentiable
from ..record import record_of
from .losses import Task
from .training import fresh

NAMED = 3  # layers in a line


def replaced_in(student: nn.Module) -> list[str]:
    """Paths of the layers that took the place of others, in any conversion."""
    there = dict(student.named_modules())
    paths = [choice.site for plan in record_of(student).plans for choice in plan.choices]
    return [path for path in dict.fromkeys(paths) if path in there]


def thaw_(student: nn.Module) -> list[nn.Parameter]:
    """Let the replaced layers train of a network that is frozen as a whole, as for inference.

    Returns:
        Their parameters, to be frozen again.

    Raises:
        ConvswapError: nothing may train, or a type of number is only to keep values in.
    """
    for name, parameter in student.named_parameters():
        if parameter.is_floating_point() and parameter.element_size() == 1:
            kept = str(parameter.dtype)[6:]
            raise ConvswapError(f"{name} is kept in {kept}, in which nothing can be trained")
    if any(parameter.requires_grad for parameter in student.parameters()):
        return []
    layers = map(student.get_submodule, replaced_in(student))
    thawed = [p for layer in layers for p in layer.parameters() if p.is_floating_point()]
    if not thawed:
        raise ConvswapError("nothing to train: no parameter of the network requires gradients")
    for parameter in thawed:
        parameter.requires_grad_()
    return thawed


def reach_(task: Task, batch: Batch, tell: Callable[[str], None]) -> None:
    """Have gradients get to all replaced layers that may train, if need be through code that
    switches them off or does what PyTorch does not differentiate else; tell which stay as they are.

    Raises:
        ConvswapError: no gradient gets to any parameter.
        DataError: the loss is not finite.
    """
    paths = replaced_in(task.student)
    layers = {path: [*task.student.get_submodule(path).parameters()] for path in paths}
    reached = _reached_somehow(task, batch)
    wanted = [layer for layer in layers.values() if any(p.requires_grad for p in layer)]
    if not reached or any(reached.isdisjoint(layer) for layer in wanted):
        task.through, task.blocks = True, ()
        further = _reached(task, batch)
        task.through = len(further) > len(reached)
        reached |= further
    if not reached:
        raise ConvswapError("nothing to train: no gradient of the loss gets to the network")
    left = [path for path, layer in layers.items() if reached.isdisjoint(layer)]
    if left:
        more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
        tell(
            f"frozen, or cut off from the loss, and left as they are: {len(left)} of {len(layers)} "
            f"replaced layers, {', '.join(left[:NAMED])}{more}"
        )


def _reached_somehow(task: Task, batch: Batch) -> set[nn.Parameter]:
    try:
        return _reached(task, batch)
    except RuntimeError as error:
        if "memory" in str(error):
            raise
    task.room, task.blocks = differentiable, ()
    try:
        return _reached(task, batch)
    except RuntimeError as error:
        name = type(task.student).__name__
        raise ConvswapError(f"PyTorch cannot differentiate {name}: {first_line(error)}") from error


def _reached(task: Task, batch: Batch) -> set[nn.Parameter]:
    """The student's parameters that a gradient gets to."""
    with task.room():
        loss = task(batch).loss
        if loss.requires_grad and loss.isfinite().all():
            loss.backward()
    if not loss.isfinite().all():
        most = max(t.abs().max().item() for t in batch.tensors)
        raise DataError(
            f"the loss is {loss.item()} before the first step, on inputs of up to {most:.3g}",
            do="scale the inputs as the network is used to",
        )
    reached = {p for p in task.student.parameters() if p.grad is not None}
    task.student.zero_grad()
    fresh(task.student)
    return reached
