"""convswap distill: recover accuracy by a short distillation from the original network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

import convswap

from ..plans import FAST, LONG, THREADS
from . import console, early
from . import options as o

if TYPE_CHECKING:
    from torch import nn

    from ..plans import Kind
    from ..recovery.judging import Judgement

EXAMPLE = "convswap distill r18-half --data photos/ --out r18-half-recovered"


def _positive(most: float) -> Parameter:
    return Parameter(validator=validators.Number(gt=0, lte=most))


@Parameter(name="*", group="Training")
@dataclass(frozen=True, kw_only=True)
class Training:
    """How to train."""

    epochs: Annotated[float | None, _positive(LONG)] = None
    """passes over the images; default: by their number"""
    minutes: Annotated[float | None, _positive(LONG)] = None
    """train for about so long, in place of --epochs"""
    lr: Annotated[float | None, _positive(FAST)] = None
    """learning rate of SOAP; default: by how much was lost"""
    labels: bool = False
    """use the images' classes beside the original network"""
    batch_size: o.Together | None = None
    """images per step; default: 64, down to 16 where they are few"""
    workers: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=THREADS))] = 0
    """loader processes"""
    log: Literal["tensorboard"] | None = None
    """write the course of the training to `runs/`, beside `history.csv`"""


def distill(
    artifact_dir: o.Artifact,
    /,
    *,
    data: o.Data,
    out: o.Folder,
    training: Training = Training(),
    output: o.Output = None,
    original: o.Original = o.Original(),
    run: o.Run = o.Run(),
    force: o.Force = False,
    as_json: o.Json = False,
) -> None:
    """Train a converted network briefly to put out what the original does; no labels needed.

    Stopped or killed, it goes on from its last checkpoint when called again. On several devices:
    `torchrun --nproc-per-node N -m convswap distill`, and so on.
    """
    early.check_output(out, force)
    early.check(artifact=artifact_dir, sources=[data])
    from . import opening

    with opening.processes(run) as run:
        student = opening.open_artifact(artifact_dir, original, run)
        teacher = opening.open_original(student, original, run.device)
        small, provenance = _recovered(student, teacher, data, Path(out), training, output, run)
        if early.leads():
            console.answer(as_json, _write(small, artifact_dir, Path(out), provenance, force))


def _recovered(
    student: nn.Module,
    teacher: nn.Module,
    data: str,
    out: Path,
    training: Training,
    output: Kind | None,
    run: o.Run,
) -> tuple[nn.Module, dict[str, object]]:
    """The network after training, and how that was done."""
    from ..inputs.images import training_batches
    from ..recovery.judging import History
    from ..results.classes import number_classes_
    from ..support import ranks
    from . import opening

    preprocess, settings = opening.settle(student, data), asdict(training)
    size, workers = settings.pop("batch_size"), settings.pop("workers")
    source = opening.source_for(teacher, preprocess, data, run)
    batches, judges = training_batches(
        source, preprocess, size, seed=run.seed, workers=workers, share=ranks.place(),
        note=opening.note,
    )  # fmt: skip
    number_classes_(teacher, judges.images, batches.images)
    history = History(_heard(settings.pop("log"), out, run))
    if _checkpoint(out).exists():
        opening.note(f"goes on from {_checkpoint(out)}")
    with console.progress(run.quiet) as progress:
        small = convswap.distill(
            student, teacher, batches, **settings, output=output, judges=judges, seed=run.seed,
            checkpoint=_checkpoint(out), progress=progress, judged=history, tell=opening.note,
        )  # fmt: skip
    settings |= {"data": data, "images": len(batches.order), "seed": run.seed,
                 "command": console.command()}  # fmt: skip
    return small, settings | {"history": history.rows}


def _heard(log: str | None, out: Path, run: o.Run) -> list[Callable[[Judgement], None]]:
    """Who hears of judgements."""
    from ..recovery.board import Board

    heard = [] if run.quiet else [console.judgement]
    return [*heard, Board(Path("runs") / out.name)] if log and early.leads() else heard


def _write(
    small: nn.Module, start: str, out: Path, settings: dict[str, object], force: bool
) -> list[dict[str, float]]:
    """Write the network and how it came along; the latter as plain data."""
    from .. import artifact
    from ..recovery.judging import summary, write_history

    history = settings.pop("history")
    console.note(summary(history))
    provenance = artifact.read_description(start).provenance | {"distilled": settings}
    artifact.save(small, out, provenance=provenance, force=force)
    _checkpoint(out).unlink(missing_ok=True)
    console.wrote(out)
    rows = write_history(history, out)
    console.wrote(f"{out}/ (history.csv, history.json)")
    return rows


def _checkpoint(out: Path) -> Path:
    return out.with_name(f"{out.name}.checkpoint.pt")
