"""convswap distill: recover accuracy by a short distillation from the original network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from .. import artifact
from ..inputs.images import training_batches
from ..recovery import distill as recovery
from ..support.files import check_new
from . import opening, report
from . import options as o

EXAMPLE = "convswap distill r18-half --data photos/ --epochs 2 --out r18-half-recovered"


def distill(
    artifact_dir: o.Artifact,
    data: o.Data,
    epochs: Annotated[int, typer.Option("--epochs", min=1)],
    out: Annotated[str, typer.Option("--out", help="artifact folder to write")],
    lr: Annotated[float, typer.Option("--lr", help="learning rate of AdamW")] = 1e-3,
    temperature: Annotated[float, typer.Option("--temperature", help="of the softmax")] = 2.0,
    hint: Annotated[float, typer.Option("--hint", help="weight of per-layer errors")] = 1.0,
    architecture: o.Architecture = None,
    teacher_weights: Annotated[
        str | None,
        typer.Option("--teacher-weights", help="of the original network; default: as converted"),
    ] = None,
    model_arg: o.ModelArg = None,
    batch_size: o.BatchSize = 64,
    workers: Annotated[int, typer.Option("--workers", help="loader processes", min=0)] = 0,
    seed: o.Seed = 0,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    force: o.Force = False,
    quiet: o.Quiet = False,
) -> None:
    """Train a converted network briefly to put out what the original does; no labels needed.

    Interrupted, it goes on from the last finished epoch when called again.
    """
    check_new(out, force, folder=True)
    student = opening.open_artifact(artifact_dir, architecture, model_arg, device, threads)
    teacher = opening.open_original(student, architecture, teacher_weights, model_arg, device)
    preprocess = opening.settle_preprocess(student, data)
    batches, judges = training_batches(data, preprocess, batch_size, seed=seed, workers=workers)
    checkpoint = Path(f"{out}.checkpoint.pt")
    with report.progress(quiet) as progress:
        small = recovery.distill(
            student, teacher, batches, epochs, lr=lr, temperature=temperature, hint=hint,
            judges=judges, checkpoint=checkpoint, progress=progress,
        )  # fmt: skip
    before, after = student.state_dict(), small.state_dict()
    if all(torch.equal(before[name], tensor) for name, tensor in after.items()):
        report.note("no epoch came closer to the original: the network is kept as it was")
    provenance = artifact.read_description(artifact_dir).provenance
    settings = {"data": data, "images": len(batches.order), "epochs": epochs, "lr": lr,
                "temperature": temperature, "hint": hint, "seed": seed}  # fmt: skip
    artifact.save(small, out, provenance=provenance | {"distilled": settings}, force=force)
    checkpoint.unlink(missing_ok=True)
    report.wrote(out)
