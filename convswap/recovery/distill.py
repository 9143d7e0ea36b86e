"""Recovery: a short distillation from the original network, on unlabelled images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from torch import nn

from .. import __version__
from ..errors import ConvswapError, DataError
from ..network.calls import Batch, Call, read_batch
from ..network.copies import deep_copy, unwrapped
from ..network.layout import laid_out, lay_out_, run_with_channels_last
from ..network.match import Match, Pick, find_match
from ..network.outputs import Reference, output_kind
from ..plans import Kind
from ..record import planned_output, record_of
from ..support.progress import Progress, silent
from ..support.randomness import seeded
from . import ranks
from .checkpoint import Checkpoint, digest
from .judging import Judge, Judgement, with_labels
from .losses import Loss, Task, compared
from .passes import steps
from .rates import passes_for, rate_for
from .signals import collected
from .soap import Soap
from .training import NOISE, Training, fresh
from .trials import Trials

JUDGES = 4  # batches to judge by, where none are given
JUDGEMENTS = 16  # in all, at even distances


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
    so that there the result is never further away than the start. Started by `torchrun`, each
    process trains on the batches it is given, and all end with the same network.

    Args:
        student: a network made by `convert`.
        teacher: the network it was made from.
        batches: inputs as for `plan`, with labels or without; iterated once per pass.
        epochs: passes over the batches; default: by their number, unless `minutes` are given.
        minutes: train for about so long.
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
    student, teacher = fresh(deep_copy(unwrapped(student))), deep_copy(unwrapped(teacher)).eval()
    teacher = teacher.to(next(student.parameters()).device)
    batches = batches if hasattr(batches, "__len__") else list(batches)

    if not len(batches):
        raise DataError("no images to distil on")
    with seeded(seed):
        first = [read_batch(teacher, batch, call) for _, batch in steps(batches, seed, 0, 1)]
        pick = output if callable(output) else None
        match = Match(pick) if pick else find_match(teacher, first[0])
        last = run_with_channels_last((student, teacher), first[0])  # faster, by half on processors
        for network in (student, teacher):
            lay_out_(network, last)

        def read(batch: object) -> Batch:
            batch = replace(read_batch(teacher, batch, call), match=match)
            return laid_out(batch) if last else batch

        seen = [read(batch) for batch in [*judges] or islice(batches, JUDGES)]
        if labels and any(batch.labels is None for batch in seen):
            raise DataError("the images have no labels", do="put them in folders, one per class")
        if not any(parameter.requires_grad for parameter in student.parameters()):
            raise ConvswapError("nothing to train: no parameter of the network requires gradients")

        said = None if pick else output
        kind = said or planned_output(student) or output_kind(teacher, seen)
        reference = Reference(teacher, seen, kind)
        noise = 0.0 if judge else NOISE
        judge = judge or (with_labels(reference, seen) if labels else reference.distance)
        sites = [choice.site for plan in record_of(student).plans[-1:] for choice in plan.choices]
        values = compared(student, teacher, sites, seen[0])
        task = Task(student, teacher, values, kind, reference.scale, labels=labels, loss=loss)

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
                length = trials.steps_within(minutes, usual, judge, JUDGEMENTS)
            else:
                images = len(batches) * len(first[0]) * ranks.place()[1]
                length = max(1, round((epochs or passes_for(images)) * len(batches)))
            given = lr or loss
            lr = usual if given else trials.rate(usual, length, reference.distance)
        training = Training(task, student, judge, lr, length, noise)
        if state:
            with kept.taken_over():
                training.go_on_from(state)
    try:
        _train(training, batches, read, seed, kept, progress, judged, tell)
    except (ConvswapError, OSError, RuntimeError) as error:
        if ranks.several() or not training.gained:
            raise
        tell(f"training ended at step {training.step}, the best so far is kept: {error}")
    student.load_state_dict(training.best)
    lay_out_(student, last=False)
    return fresh(student)


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
            if signals or kept.due:
                kept.write(training.state())
            if signals:
                return
            progress("distill", training.step, training.steps)
        if training.step > training.history[-1].step:
            training.have_judged(seed)
            judged(training.history)
        kept.write(training.state())
