"""convswap distill: recover accuracy by a short distillation from the original network."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

import convswap

from ..support.files import check_new
from . import console
from . import options as o

if TYPE_CHECKING:
    from torch import nn

EXAMPLE = "convswap distill r18-half --data photos/ --epochs 2 --out r18-half-recovered"


@Parameter(name="*", group="Training")
@dataclass(frozen=True, kw_only=True)
class Training:
    """How to train."""

    epochs: o.Count
    """passes over the images"""
    lr: float = 1e-3
    """learning rate of AdamW"""
    temperature: float = 2.0
    """of the softmax"""
    hint: float = 1.0
    """weight of per-layer errors"""
    batch_size: o.BatchSize = 64
    workers: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 0
    """loader processes"""


def distill(
    artifact_dir: o.Artifact,
    /,
    *,
    data: o.Data,
    out: o.Folder,
    training: Training,
    output: o.Output = None,
    original: o.Original = o.Original(),
    run: o.Run = o.Run(),
    force: o.Force = False,
) -> None:
    """Train a converted network briefly to put out what the original does; no labels needed.

    Interrupted, it goes on from the last finished epoch when called again.
    """
    from .. import artifact
    from ..inputs.images import training_batches
    from . import opening

    check_new(out, force, folder=True)
    student = opening.open_artifact(artifact_dir, original, run)
    teacher = opening.open_original(student, original, run.device)
    preprocess, settings = opening.settle(student, data), asdict(training)
    size, workers = settings.pop("batch_size"), settings.pop("workers")
    batches, judges = training_batches(data, preprocess, size, seed=run.seed, workers=workers)
    checkpoint = Path(f"{out}.checkpoint.pt")
    with console.progress(run.quiet) as progress:
        small = convswap.distill(
            student, teacher, batches, **settings, output=output, judges=judges,
            checkpoint=checkpoint, progress=progress,
        )  # fmt: skip
    if _same(student, small):
        console.note("no epoch came closer to the original: the network is kept as it was")
    settings |= {"data": data, "images": len(batches.order), "seed": run.seed}
    provenance = artifact.read_description(artifact_dir).provenance | {"distilled": settings}
    artifact.save(small, out, provenance=provenance, force=force)
    checkpoint.unlink(missing_ok=True)
    console.wrote(out)


def _same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks of one architecture hold the same values."""
    before, after = one.state_dict(), other.state_dict()
    return all(before[name].equal(tensor) for name, tensor in after.items())
