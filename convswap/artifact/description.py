"""The files of an artifact folder, and what `convswap.json` says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from ..errors import ArtifactError, problems, reason
from ..record import Record
from ..support.files import read_text
from ..support.plain import levels_of, read_json
from ..support.tensors import Entry, read_header
from . import DESCRIPTION, WEIGHTS

FORMAT = 1
LEVELS = 32  # of lists and mappings in one another, in what is kept with an artifact


def _shallow(provenance: dict[str, Any]) -> dict[str, Any]:
    if levels_of(provenance) > LEVELS:
        raise ValueError(f"must have at most {LEVELS} levels")
    return provenance


def _converted(record: Record) -> Record:
    if not record.plans:
        raise ValueError("it has no plans")
    return record


class Description(BaseModel):
    """The content of `convswap.json`.

    Attributes:
        tensors: SHA-256 of each, none in folders written before there were any.
        digest: of all other entries.
    """

    model_config = ConfigDict(extra="forbid")

    format: int
    record: Annotated[Record, AfterValidator(_converted)]
    versions: dict[str, str] = {}
    provenance: Annotated[dict[str, Any], AfterValidator(_shallow)] = {}
    tensors: dict[str, str] = {}
    digest: str | None = None


def read_description(folder: str | Path) -> Description:
    """What `convswap.json` says, checked.

    Raises:
        ArtifactError: it is missing, not JSON, changed, of a newer format, or has unknown
            entries.
    """
    path = Path(folder) / DESCRIPTION
    try:
        content = read_json(read_text(path))
    except (OSError, ValueError) as error:
        inside = sorted(str(each.parent) for each in Path(folder).glob(f"*/{DESCRIPTION}"))
        raise ArtifactError(
            f"not an artifact folder: cannot read {path} ({reason(error)})",
            do=f"take one of those in it: {', '.join(inside[:5])}" if inside else None,
        ) from None
    if isinstance(content, dict) and content.get("format") != FORMAT:
        raise ArtifactError(
            f"{path} has format {content.get('format')!r}; this version reads {FORMAT}",
            do="update convswap",
        )
    try:
        description = Description.model_validate(content)
    except ValidationError as error:
        raise ArtifactError(f"invalid {path}: {problems(error)}") from None
    if description.digest not in (None, digest_of(content)):
        raise ArtifactError(
            f"{path} was changed since it was written", do="remove its entry `digest` if you did it"
        )
    return description


def digest_of(content: dict[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def weights_of(folder: Path, description: Description) -> Path:
    """Where the weights that a description describes are."""
    if description.digest and (staged := folder / staged_as(description.digest)).exists():
        return staged
    return folder / WEIGHTS


def staged_as(digest: str) -> str:
    """The name of the weights between the two renames that replace an artifact: it says whose they
    are, so that none is read to find that out."""
    return f".{WEIGHTS}.{digest[:16]}"


def header_of(path: Path) -> dict[str, Entry]:
    try:
        return read_header(path)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot read {path}: {reason(error)}") from None
