"""The report on a folder: what an artifact, or the results of a run, tell by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from torch import nn

from ..artifact import DESCRIPTION, read_description
from ..artifact.description import Description, header_of, weights_of
from ..artifact.loading import rebuilt
from ..errors import ArtifactError, ModelError, one_line, problems
from ..inputs.bases import build_base
from ..inputs.networks import open_model
from ..network.observe import Observation, observe
from ..plans import LEAST_MS, MOST_MS
from ..record import planned_output
from ..support.files import read_text
from ..support.plain import read_json
from ..support.progress import Note, Progress, silent, unheard
from . import pictures
from .differences import Case, differing
from .evaluation import open_judges, quality_beside
from .report import COSTS, Chart, Report, Rows, headline, in_words, layers_of, stages_table

STAGES = ("converted", "recovered")
_Figure = Annotated[float, Field(ge=-1e18, le=1e18)]


def _timed(row: dict[str, float | None]) -> dict[str, float | None]:
    if (ms := row.get("ms")) is not None and not LEAST_MS <= ms <= MOST_MS:
        raise ValueError(f"ms must be milliseconds, not {ms:g}")
    return row


_Row = Annotated[dict[str, _Figure | None], AfterValidator(_timed)]
_ROWS = TypeAdapter(dict[str, _Row])
_HISTORY = TypeAdapter(Annotated[list[dict[str, _Figure]], Field(min_length=1)])


def stages(folder: str | Path) -> dict[str, Path]:
    """The artifacts of a folder, by stage: itself, or what `convswap run` wrote into it.

    Raises:
        ArtifactError: it holds none.
    """
    folder = Path(folder)
    if (folder / DESCRIPTION).exists():
        distilled = "distilled" in read_description(folder).provenance
        return {STAGES[distilled]: folder}
    found = {name: folder / name for name in STAGES if (folder / name / DESCRIPTION).exists()}
    if not found:
        raise ArtifactError(
            f"{folder} is neither an artifact folder nor one of a run", do="make one with convert"
        )
    return found


def rows_of(folder: str | Path) -> dict[str, dict[str, float | None]]:
    """What a folder tells of its networks by itself: costs, times if it was planned by time, and
    all that a run measured.

    Raises:
        ArtifactError: the folder is damaged.
    """
    rows: dict[str, dict[str, float | None]] = {"dense": {}}
    for name, artifact in stages(folder).items():
        description = read_description(artifact)
        plans = description.record.plans
        size = sum(entry.bytes for entry in header_of(weights_of(artifact, description)).values())
        rows["dense"] |= vars(plans[0].dense)
        rows[name] = {**vars(plans[-1].planned), "bytes": size}
        if len(plans) == 1 and (time := plans[0].latency) and name == "converted":
            rows["dense"]["ms"] = time.ms_dense / time.batch
            rows[name]["ms"] = time.ms / time.batch
    measured = Path(folder) / "report.json"
    if measured.is_file():
        try:
            known = _ROWS.validate_python(read_json(read_text(measured)))
        except (OSError, ValueError) as error:
            said = problems(error) if isinstance(error, ValidationError) else str(error)
            raise ArtifactError(f"invalid {measured}: {said}") from None
        for name, row in rows.items():
            row |= {key: value for key, value in known.get(name, {}).items() if value is not None}
    return rows


def look(
    folder: str | Path, architecture: str | None = None, kwargs: Mapping[str, Any] | None = None
) -> Observation | None:
    """What is in the network before conversion; no weights are read. None where that is not
    known: for a network of the user's own code without its architecture, `file.py:factory`, and
    where it takes something else than one image, runs with values alone, or does not fit the
    weights that the folder holds."""
    *_, artifact = stages(folder).values()
    description = read_description(artifact)
    record, size = description.record, description.record.plans[0].input_size
    if size is None or (record.base.name == "code" and not architecture):
        return None
    if architecture:
        return observe(open_model(architecture, random_weights=True, kwargs=kwargs), size)
    header = header_of(weights_of(artifact, description))
    try:
        rebuilt(artifact, record, header)  # what does not fit its weights may take minutes to run
        return observe(build_base(record.base, len(header)), size)
    except (ArtifactError, ModelError):
        return None


def judge(
    rows: dict[str, dict[str, float | None]],
    networks: Mapping[str, nn.Module],
    source: str,
    progress: Progress = silent,
    note: Note = unheard,
) -> list[Case]:
    """Put the quality of each network on images into its row, in place of what was known.

    Args:
        networks: `dense` first; the last one's preprocessing is settled.

    Returns:
        The images on which the first and the last differ most.
    """
    dense, *_, last = networks.values()
    images = open_judges(last, source, note)
    output = planned_output(last)
    quality = quality_beside(dense, images, output, progress)
    for name, network in networks.items():
        costs = {key: value for key, value in rows[name].items() if key in COSTS}
        rows[name] = quality(network) | costs
    return differing(dense, last, images, output, progress)


def report_on_folder(
    folder: str | Path, rows: Rows, seen: Observation | None = None, cases: Sequence[Case] = ()
) -> Report:
    """The report on an artifact, or on a run.

    Args:
        rows: figures of `dense` and of every stage.
        seen: what is in the network before conversion, to tell what was left alone and why.
    """
    *_, artifact = stages(folder).values()
    description = read_description(artifact)
    plans, provenance = description.record.plans, description.provenance
    charts, history = [], artifact / "history.json"
    if history.is_file():
        charts = [_recovery(history)]
    time = plans[-1].latency
    where = {"target": time.target, "threads": time.threads} if time else {}
    if isinstance(provenance.get("target"), dict):
        where = provenance["target"]
    steps = [provenance, provenance.get("distilled")]
    commands = [step["command"] for step in steps if isinstance(step, dict) and "command" in step]
    return Report(
        name=_name(description), headline=headline(rows, where), table=stages_table(rows),
        remark=_remark(rows, where), layers=layers_of(plans, seen), charts=charts, cases=cases,
        commands=[one_line(str(command)) for command in commands], facts=_facts(description),
    )  # fmt: skip


def _recovery(path: Path) -> Chart:
    try:
        svg = pictures.recovery_svg(_HISTORY.validate_python(read_json(read_text(path))))
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"invalid {path}: {one_line(str(error), 200)}") from None
    about = "Distance to the original network's output, on images not trained on."
    return Chart("Recovery", about, svg)


def _name(description: Description) -> str:
    base = description.record.base
    kwargs = ", ".join(f"{key}={value}" for key, value in base.kwargs.items())
    name = "the user's own network" if base.name == "code" else base.name
    return one_line(f"{name} ({kwargs})" if kwargs else name, 300)


def _remark(rows: Rows, where: Mapping[str, object]) -> str:
    parts = ["percentages in brackets: the share that is kept"]
    if any(row.get("ms") for row in rows.values()):
        named = [f"{key} {value}" for key, value in where.items() if key in ("target", "threads")]
        parts.append(f"times: {', '.join(named)}")
    return one_line("; ".join(parts))


def _facts(description: Description) -> dict[str, str]:
    """Where a network comes from, in words."""
    record, plan = description.record, description.record.plans[-1]
    base = record.base
    budget = plan.budget.model_dump(exclude_none=True)
    facts: dict[str, Any] = {
        "network": base.name,
        "weights": base.weights or "not known",
        "SHA-256 of the weights": base.sha256,
        "inputs": "; ".join("x".join(map(str, each.shape[1:])) for each in plan.inputs),
        "budget": ", ".join(f"{key} {value:g}" for key, value in budget.items()),
        "fit": plan.fit,
        "seed": plan.seed,
        "versions": description.versions,
        "notes": "; ".join(plan.notes),
    }
    hidden = ("command", *facts)
    facts |= {key: value for key, value in description.provenance.items() if key not in hidden}
    return {key: in_words(value) for key, value in facts.items() if value not in (None, "")}
