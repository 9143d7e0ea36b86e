"""What is to be small: how far the student is from its teacher, at the output and within."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..network.calls import Batch
from ..network.lockstep import Tap, first_given
from ..network.observe import observe
from ..network.outputs import divergence, tensors
from ..network.running import output_of
from ..network.thread_state import gradients_flow
from ..plans import Kind
from .mixing import mix
from .recompute import computed_again

# Weights of the error within, beside that of the output: at the end of residual blocks, which
# the output follows from; where single layers or other aims may contradict it.
STRONG, WEAK = 300.0, 5.0

Value = tuple[Tap, ...]
"""The sum of what these look at."""

Loss = Callable[[object, object, Tensor | None], Tensor]
"""The user's own: of the student's output, the teacher's, and the labels if there are any."""


def compared(
    student: nn.Module, teacher: nn.Module, replaced: Iterable[str], example: Batch
) -> list[Value]:
    """What student and teacher are compared by within: the sums at the end of residual blocks,
    as their addends; where there are none, what the replaced layers write."""
    sums: dict[Value, None] = {}  # ordered
    for site in observe(teacher, example).sites:
        if site.sum and not site.reason:
            path = site.sum.norms[-1] if site.sum.norms else site.path
            sums[Tap(path, written=True), site.sum.other] = None
    values = [*sums] or [(Tap(site, written=True),) for site in replaced]
    ours, theirs = (dict(network.named_modules()) for network in (student, teacher))
    return [v for v in values if all(tap.path in ours and tap.path in theirs for tap in v)]


class Errors(NamedTuple):
    """Of one batch: what is trained on, and its parts."""

    loss: Tensor
    output: Tensor
    within: Tensor


class Task(nn.Module):
    """A student and its teacher, which is not trained, run on one batch.

    Args:
        values: `compared`.
        scale: `outputs.energy` of the teacher's outputs.
        labels: whether the cross-entropy of labels counts beside the distance to the teacher.
        loss: the user's own, in place of the distance to the teacher's output.

    Attributes:
        through: whether gradients go also through code that switches them off.
        halved: whether networks run in bfloat16, on weights that stay as they are.
        room: what a pass there and back runs in.
        blocks: paths of the student's modules that are computed again on the way back.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, values: Sequence[Value], kind: Kind,
        scale: Sequence[float], *, labels: bool = False, loss: Loss | None = None,
    ):  # fmt: skip
        super().__init__()
        self.student, self.teacher = student, teacher.requires_grad_(False)
        self.values, self.kind, self.scale = values, kind, scale
        self.labels, self.loss, self.through, self.halved = labels, loss, False, False
        self.room: Callable[[], AbstractContextManager] = nullcontext
        self.blocks: tuple[str, ...] = ()
        alone = not labels and loss is None
        self.inner = STRONG if alone and any(len(value) > 1 for value in values) else WEAK

    def forward(self, batch: Batch) -> Errors:
        """The errors on a batch; its images are mixed, unless the user's loss reads labels."""
        labels, partners, share = batch.labels, None, 1.0
        if self.loss is None:
            batch, partners, share = mix(batch)
        # subtle: tensors that a teacher made in inference mode could not be learned from
        flow = gradients_flow if self.through else nullcontext
        devices = range(torch.cuda.device_count())
        with torch.random.fork_rng(devices):  # what networks draw at random is the same in both
            with torch.no_grad(), flow(), self._fast(), _kept(self.teacher, self.values) as theirs:
                target = output_of(self.teacher, batch)
        again = computed_again(self.student, self.blocks)
        with flow(), self._fast(), again, _kept(self.student, self.values) as ours:
            output = output_of(self.student, batch)
        if self.loss:
            outer = self.loss(output, target, labels)
        else:
            outer = divergence(output, target, self.kind, self.scale)
        if self.labels:
            scores = tensors(output)[0].float()
            outer = outer + share * F.cross_entropy(scores, labels)
            if share < 1:
                others = labels[partners.to(labels.device)]
                outer = outer + (1 - share) * F.cross_entropy(scores, others)
        gaps = [
            _gap(ours[value], theirs[value])
            for value in self.values
            if value in ours and value in theirs and ours[value].shape == theirs[value].shape
        ]
        within = sum(gaps) / len(gaps) if gaps else outer.new_zeros(())
        return Errors(outer + self.inner * within, outer.detach(), within.detach())

    def _fast(self) -> torch.autocast:
        device = next(self.student.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.halved)


@contextmanager
def _kept(network: nn.Module, values: Iterable[Value]) -> Iterator[dict[Value, Tensor]]:
    """The values, as sums, of a network that is run inside; none of those it does not come by."""
    sums: dict[Value, Tensor] = {}

    def keeper(value: Value, tap: Tap, addends: dict[Tap, Tensor]):
        def keep(
            module: nn.Module, args: tuple, kwargs: dict, output: Tensor | None = None
        ) -> None:
            addend = output if tap.written else first_given(args, kwargs)
            if not isinstance(addend, Tensor):
                return
            addends[tap] = addend.clone()  # subtle: an in-place activation may follow
            sizes = {each.shape for each in addends.values()}
            if len(addends) == len({*value}) and len(sizes) == 1:  # not of two different calls
                sums[value] = reduce(add, (_exact(addends[tap]) for tap in value))
                addends.clear()

        return keep

    with ExitStack() as stack:
        for value in values:
            addends: dict[Tap, Tensor] = {}
            for tap in {*value}:
                module = network.get_submodule(tap.path)
                listen = (
                    module.register_forward_hook
                    if tap.written
                    else module.register_forward_pre_hook
                )
                stack.callback(listen(keeper(value, tap, addends), with_kwargs=True).remove)
        yield sums


def _exact(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _gap(ours: Tensor, theirs: Tensor) -> Tensor:
    """Squared error as a share of the teacher's variance over images and positions."""
    dims = (0, *range(2, theirs.dim()))
    variance = (theirs.square().mean(dims) - theirs.mean(dims).square()).mean()
    # the difference is all that is held for the way back
    return (ours - theirs).square().mean() / variance.clamp_min(1e-12)
