"""Recovery: a short distillation from the original network, on unlabelled images."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import TrainingTask
from torch import Tensor, nn

from ..errors import ConvswapError, DataError
from ..network.calls import Batch, read_batch
from ..network.copies import deep_copy
from ..network.outputs import Reference, divergence, kl, output_kind, tensors
from ..plans import Kind
from ..record import planned_output, record_of
from ..support.files import new_file
from ..support.progress import Progress, silent

JUDGES = 4  # batches that decide which epoch is kept, where none are given


class RecoveryTask(TrainingTask):
    """One training step: make the student's output, and its replaced layers', the teacher's.

    timm's own distillation tasks want labels and class counts; this one works on any output.

    Args:
        sites: module paths whose outputs are compared as hints (normalised squared error).
        hint: weight of the hints beside the loss on the output.
        scale: `outputs.energy` of the teacher's outputs.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, sites: Iterable[str], kind: Kind,
        scale: list[float], temperature: float, hint: float, **kwargs,
    ):  # fmt: skip
        super().__init__(verbose=False, **kwargs)
        self.trainable_module, self.teacher = student, teacher
        self.sites, self.kind, self.scale = list(sites), kind, scale
        self.temperature, self.hint = temperature, hint

    def forward(self, images: Batch) -> dict[str, Tensor]:
        ours, theirs = {}, {}
        with ExitStack() as stack:
            if self.hint:
                for network, kept in ((self.trainable_module, ours), (self.teacher, theirs)):
                    for site in self.sites:
                        hook = network.get_submodule(site).register_forward_hook(_keep(site, kept))
                        stack.callback(hook.remove)
            with torch.no_grad():
                target = images.run(self.teacher)
            output = images.run(self.trainable_module)
        if self.kind == "logits":
            student, teacher = tensors(output)[0], tensors(target)[0]
            loss = self.temperature**2 * kl(student, teacher, self.temperature)
        else:
            loss = divergence(output, target, self.kind, self.scale)
        hints = [_gap(ours[site], theirs[site]) for site in ours]
        hint_loss = sum(hints) / len(hints) if hints else torch.zeros(())
        return {
            "loss": loss + self.hint * hint_loss,
            "output": output,
            "output_loss": loss.detach(),
            "hint_loss": hint_loss.detach(),
        }


def distill(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Tensor | tuple],
    epochs: int = 1,
    *,
    lr: float = 1e-3,
    temperature: float = 2.0,
    hint: float = 1.0,
    weight_decay: float = 1e-4,
    output: Kind | None = None,
    judges: Iterable[Tensor | tuple] = (),
    checkpoint: str | Path | None = None,
    progress: Progress = silent,
) -> nn.Module:
    """A copy of a converted network, trained to put out what the original does.

    Labels are neither needed nor used. AdamW with a cosine schedule, both timm's. The state
    that comes closest to the original on `judges` is kept, be it the first, so that there the
    result is never further away than the start.

    Args:
        student: a network made by `convert`.
        teacher: the network it was made from.
        batches: inputs, or tuples whose first is one; iterated once per epoch.
        lr: of AdamW; the first twentieth of the steps warms up to it.
        temperature: of the softmax, for classifiers.
        hint: weight of the squared error at replaced layers, beside the loss on the output.
        output: `logits` or `values`; default: what the plan says, else found out from the teacher.
        judges: batches to judge every epoch by, better not among those trained on; default:
            the first few of `batches`.
        checkpoint: file to keep the state in after every epoch, and to resume from.

    Raises:
        ConvswapError: the loss became NaN or infinite.
    """
    student = deep_copy(student).eval()
    device = next(student.parameters()).device
    teacher = deep_copy(teacher).eval().to(device)
    batches = batches if hasattr(batches, "__len__") else list(batches)
    judges = [read_batch(teacher, batch) for batch in [*judges] or islice(batches, JUDGES)]
    if not judges:
        raise DataError("no images to distil on")
    kind = output or planned_output(student) or output_kind(teacher, judges)
    reference = Reference(teacher, judges, kind)
    sites = [choice.site for plan in record_of(student).plans[-1:] for choice in plan.choices]
    task = RecoveryTask(
        student, teacher, sites, kind, reference.scale, temperature, hint, device=device
    )
    steps = len(batches)
    optimizer = create_optimizer_v2(student, "adamw", lr=lr, weight_decay=weight_decay)
    scheduler, _ = create_scheduler_v2(
        optimizer, "cosine", num_epochs=epochs, warmup_epochs=0.05 * epochs, warmup_lr=lr / 100,
        updates_per_epoch=steps, step_on_epochs=False,
    )  # fmt: skip

    state = {
        "epoch": 0,
        "distance": reference.distance(student),
        "best": copy.deepcopy(student.state_dict()),
    }
    if checkpoint and Path(checkpoint).exists():
        try:
            state = torch.load(checkpoint, weights_only=True)
            student.load_state_dict(state["student"])
            optimizer.load_state_dict(state["optimizer"])
        except Exception as error:  # whatever a damaged or foreign file leads to
            raise ConvswapError(
                f"cannot go on from {checkpoint}: it is damaged or of another run", do="remove it"
            ) from error
    for epoch in range(state["epoch"], epochs):
        if hasattr(batches, "epoch"):  # subtle: a resumed run must see the same order
            batches.epoch = epoch
        student.train()
        for step, batch in enumerate(batches):
            scheduler.step_update(epoch * steps + step)
            losses = task(read_batch(teacher, batch))
            if not math.isfinite(losses["loss"].item()):
                raise ConvswapError("the loss became NaN or infinite", do="lower the learning rate")
            optimizer.zero_grad()
            losses["loss"].backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            progress("distill", epoch * steps + step + 1, epochs * steps)
        state["epoch"], reached = epoch + 1, reference.distance(student.eval())
        if reached < state["distance"]:
            state["distance"], state["best"] = reached, copy.deepcopy(student.state_dict())
        if checkpoint:
            latest = {"student": student.state_dict(), "optimizer": optimizer.state_dict()}
            with new_file(checkpoint) as temporary:
                torch.save(state | latest, temporary)
    student.load_state_dict(state["best"])
    return student.eval()


def _keep(site: str, kept: dict[str, Tensor]):
    def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        kept[site] = output
        return output.clone()  # subtle: an in-place activation may follow

    return hook


def _gap(ours: Tensor, theirs: Tensor) -> Tensor:
    """Squared error as a share of the teacher's variance over images and positions."""
    dims = (0, *range(2, theirs.dim()))
    variance = (theirs - theirs.mean(dims, keepdim=True)).pow(2).mean()
    return (ours - theirs).pow(2).mean() / variance.clamp_min(1e-12)
