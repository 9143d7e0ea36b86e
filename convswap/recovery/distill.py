"""Recovery: a short distillation from the original network, on unlabelled images."""

from __future__ import annotations

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from .. import __version__
from ..errors import ConvswapError, DataError
from ..network.calls import Batch, Call, settled
from ..network.copies import deep_copy
from ..network.layout import lay_out_, run_with_channels_last
from ..network.match import Pick
from ..network.outputs import Reference, output_kind
from ..network.running import output_of
from ..network.state import set_state_
from ..network.thread_state import undisturbed
from ..network.wrappers import unwrapped
from ..plans import Kind
from ..record import planned_output, record_of
from ..support import ranks
from ..support.progress import Progress, silent
from ..support.randomness import seeded
from ..support.signals import collected
from .checkpoint import Checkpoint, digest
from .judging import Judge, Judgement, with_labels
from .labels import right_beside, scores_of
from .losses import Loss, Task, compared
from .passes import steps
from .precision import halve_
from .rates import passes_for, rate_for
from .reach import reach_, thaw_
from .reading import Reader, countable
from .settings import check_settings
from .soap import Soap
from .sparing import spare_memory_
from .training import NOISE, Training, fresh
from .trials import Trials

JUDGES = 4  # batches to judge by, where none are given
JUDGEMENTS = 16  # in all, at even distances


@undisturbed
def distill(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[object],
    epochs: float | None = None,
    *,
    minutes: float | None = None,
    lr: float | None = None,
    labels: bool = False,
    loss: Loss | None = None,
    judge: Judge | None = None,
    judges: Iterable[object] = (),
    call: Call | None = None,
    output: Kind | Pick | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: Progress = silent,
    judged: Callable[[Sequence[Judgement]], None] = lambda history: None,
    tell: Callable[[str], None] = warnings.warn,
) -> nn.Module:
    """A copy of a converted network, trained to put out what the original does.

    Labels are not needed. Images are mirrored and mixed, the original answers for what comes of
    it. The last state with at least half of the largest gain on `judges` is kept, be it the first,
    so that there the result is never further away than the start.

    What is frozen stays as it is, and a line says so of layers that were replaced; but of a network
    that is frozen as a whole, as for inference, these are trained, and are frozen again at the end.
    Code in `forward` that switches gradients off does not keep them from replaced layers.

    Started by `torchrun`, each process trains on the batches it is given, and all end with the
    same network.

    Args:
        student: a network made by `convert`.
        teacher: the network it was made from.
        batches: inputs as for `plan`, with labels or without; iterated once per pass. Empty ones
            are passed over.
        epochs: passes over the batches; default: by their number, unless `minutes` are given.
        minutes: train for about so long, with what is tried beforehand.
        lr: learning rate of SOAP, for weights of usual size; default: by how far the start is,
            and slower where a few steps would throw the network back.
        labels: use the labels in the batches beside the teacher.
        loss: your own `loss(output, teacher_output, labels)`, in place of the distance between
            the two; images are then mirrored and mixed no longer.
        judge: your own `judge(network)`, in place of the distance to the original; less is better,
            and the state with the least is kept.
        judges: batches to judge by, better not among those trained on; default: the first few
            of `batches`.
        call: how a batch is passed, as for `plan`.
        output: `logits` or `values`; default: as the plan says, else as the network looks. Or
            what is compared is picked out of the output, as for `plan`.
        seed: decides how images are mixed, and all that networks draw at random.
        checkpoint: file to keep the state in, and to go on from. It is removed at the end.
        judged: called with all judgements so far, after each.
        tell: called with a line for each thing that did not go well.

    Raises:
        DataError: there are no images, or no labels where they are asked for.
        ConvswapError: nothing may train; the checkpoint is damaged or of another run.
    """
    began = time.perf_counter()
    check_settings(seed, epochs=epochs, minutes=minutes, lr=lr)
    batches, judges = countable(batches), countable(judges)
    student, teacher = (fresh(deep_copy(unwrapped(each))) for each in (student, teacher))
    thawed = thaw_(student)
    teacher = teacher.to(next(student.parameters()).device)
    with seeded(seed):
        pick = output if callable(output) else None
        begins = (batch for _, batch in steps(batches, seed, 0, len(batches)))
        read, first = _reader(student, teacher, begins, pick, call, labels)
        if labels and isinstance(batches, Sequence):  # all are there: none is found wrong later
            deque(map(read, batches), maxlen=0)
        seen = [*read.full(judges)] or [*islice(read.full(batches), JUDGES)]
        _check_runs((student, teacher), seen)

        said = None if pick else output
        kind = said or planned_output(student) or output_kind(teacher, seen)
        reference = Reference(teacher, seen, kind)
        noise = 0.0 if judge else NOISE
        judge = judge or (with_labels(reference, seen) if labels else reference.distance)
        sites = [choice.site for plan in record_of(student).plans[-1:] for choice in plan.choices]
        values = compared(student, teacher, sites, seen[0])
        task = Task(student, teacher, values, kind, reference.scale, labels=labels, loss=loss)
        with seeded(seed):
            spare_memory_(task, first, tell)
            reach_(task, seen[0], tell)
            halve_(task, seen[0])

        settings = (epochs, minutes, lr, labels, kind, seed)
        job = digest(
            __version__, Soap.__name__, task.state_dict(), seen, len(batches), first, settings
        )
        kept = Checkpoint(checkpoint if ranks.leads() else None, job, tell)
        state = ranks.agreed(kept.read())
        task = ranks.together(task)
        trials = Trials(task, student, batches, read, seed)
        if state:
            with kept.taken_over():
                lr, length = float(state["lr"]), int(state["steps"])
        else:
            usual = lr or rate_for(reference.distance(student))
            if minutes:
                left = 60 * minutes - (time.perf_counter() - began)
                length = trials.steps_within(left, usual, judge, JUDGEMENTS)
            else:
                images = len(batches) * len(first) * ranks.place()[1]
                length = max(1, round((epochs or passes_for(images)) * len(batches)))
            given = lr or loss
            lr = usual if given else trials.rate(usual, length, reference.distance)
        with seeded(seed):
            further = right_beside(teacher, seen, kind)
        training = Training(task, student, judge, lr, length, noise, further)
        if math.isnan(training.start):
            raise ConvswapError("the network cannot be judged: the verdict on its start is NaN")
        if state:
            with kept.taken_over():
                training.go_on_from(state)
    try:
        _train(training, batches, read, seed, kept, progress, judged, tell)
    except (ConvswapError, OSError, RuntimeError) as error:
        if ranks.several() or not training.gained:
            raise
        tell(f"training ended at step {training.step}, the best so far is kept: {error}")
    set_state_(student, training.best)
    lay_out_(student, last=False)
    for parameter in thawed:
        parameter.requires_grad_(False)
    return fresh(student)


def _reader(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[object],
    pick: Pick | None,
    call: Call | None,
    labels: bool,
) -> tuple[Reader, Batch]:
    """What makes batches such as these ready for both networks, which are laid out for it, and
    the first that is not empty."""
    read = Reader(teacher, call)
    first = next(read.full(batches), None)
    if first is None:
        raise DataError("no images to distil on")
    first = settled(teacher, first, pick)
    [_, output] = _check_runs((student, teacher), [first])
    last = run_with_channels_last((student, teacher), first)  # faster, by half on processors
    for network in (student, teacher):
        lay_out_(network, last)
    classes = scores_of(output).shape[1] if labels else None
    return Reader(teacher, call, first, last, classes), first


@torch.no_grad()
def _check_runs(networks: Iterable[nn.Module], batches: Iterable[Batch]) -> list[object]:
    """The networks' outputs; raises `ModelError` in one line where there are none."""
    return [output_of(network, batch) for network in networks for batch in batches]


def _train(
    training: Training,
    batches: Sequence,
    read: Callable[[object], Batch],
    seed: int,
    kept: Checkpoint,
    progress: Progress,
    judged: Callable[[Sequence[Judgement]], None],
    tell: Callable[[str], None],
) -> None:
    """Make all steps that are left, unless a signal asks to stop or the loss diverges."""
    often = max(1, training.steps // JUDGEMENTS)
    rank, size = ranks.place()
    judged(training.history)
    with collected() as signals:
        for step, batch in steps(batches, seed, training.step, training.steps):
            with seeded((seed + step) * size + rank):
                if not training.learn(step, read(batch)):
                    tell(f"the loss became NaN or infinite at step {step}; the best so far is kept")
                    return
            if training.step % often == 0:
                training.have_judged(seed)
                judged(training.history)
                if training.in_vain:
                    tell(f"nothing is gained after {training.step} of {training.steps} steps")
            if signals or kept.due:
                kept.write(training.state())
            if signals:
                return
            progress("distill", training.step, training.steps)
        if training.step > training.history[-1].step:
            training.have_judged(seed)
            judged(training.history)
        kept.write(training.state())
