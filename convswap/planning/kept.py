"""What was found out about the layers of a network, kept in a file: the long part of planning is
done once for the same network, images and settings, whatever budgets follow."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import scipy
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .. import __version__
from ..network.calls import Batch
from ..network.match import tensors
from ..network.sites import Site
from ..plans import Kind, Plan, Rank
from ..support.files import new_file, read_text
from ..support.plain import read_json
from ..support.tensors import digests
from .candidates import Candidate, costs_of

METHOD = 4  # raised when something else is predicted: what was kept before is then not used
FILES = 100  # at most, of up to a few hundred kB
MOST_BYTES = 1 << 26
MOST_DAMAGE = 1e100  # sums of which are finite


class _File(BaseModel):
    """Per site form, rank and damage of every candidate; costs are counted anew."""

    kind: Kind
    cut_off: tuple[str, ...]
    damages: dict[str, list[tuple[str, Rank, Annotated[float, Field(ge=0, le=MOST_DAMAGE)]]]]


@dataclass(frozen=True)
class Found:
    """The candidates of every site, by path; none of those that hardly any image comes by.

    Attributes:
        kind: what damage is of.
        cut_off: sites that no gradient of the output reaches.
    """

    kind: Kind
    options: dict[str, list[Candidate]]
    cut_off: Sequence[str] = ()


@torch.no_grad()
def place(
    folder: Path,
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    kind: Kind | None,
    seed: int,
    around: Plan | None = None,
) -> Path:
    """The file for a network, images and settings: its name is a digest of all that decides what
    is found, of what the network puts out for the first samples among it.

    Args:
        around: where gradients are taken, if not in the network itself.
    """
    settings = {
        "method": METHOD, "kind": kind, "seed": seed,
        "versions": [__version__, torch.__version__, scipy.__version__],
        "sites": [[site.path, *site.forms] for site in sites],
        "network": re.sub(r"\bat 0x[0-9a-f]+", "", repr(model)),
        "around": around and [choice.model_dump() for choice in around.choices],
    }  # fmt: skip
    found = hashlib.sha256(json.dumps(settings).encode())
    found.update(_digest(model.named_parameters()))
    found.update(_digest(model.named_buffers()))
    output = tensors(batches[0].take(slice(0, 2)).run(model))
    given = [(batch.args, batch.kwargs) for batch in batches]
    for leaf in tree_leaves((output, given)):
        tensor = isinstance(leaf, Tensor)
        found.update(_digest([("", leaf)]) if tensor else repr(leaf).encode())
    return folder / f"{found.hexdigest()[:32]}.json"


def read(file: Path, sites: Sequence[Site]) -> Found | None:
    """What was kept; None if nothing was, or it is damaged."""
    options = {}
    try:
        kept = _File.model_validate(read_json(read_text(file, MOST_BYTES), MOST_BYTES))
        if not {*kept.cut_off} <= {site.path for site in sites}:
            return None
        for site in sites:
            costs, damages = costs_of(site, bias=True), kept.damages[site.path]
            if damages and {(form, rank) for form, rank, _ in damages} != {*costs}:
                return None
            options[site.path] = [
                Candidate(site.path, form, rank, costs[form, rank], damage)
                for form, rank, damage in damages
            ]
    except (OSError, ValueError, KeyError):
        return None
    return Found(kept.kind, options, kept.cut_off)


def write(found: Found, file: Path) -> None:
    """Keep what was found; not where that cannot be written. The oldest files beyond `FILES` go."""
    damages = {
        path: [(c.form, c.rank, c.damage) for c in row] for path, row in found.options.items()
    }
    text = _File(kind=found.kind, cut_off=tuple(found.cut_off), damages=damages).model_dump_json()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with new_file(file) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        files = sorted(file.parent.glob("*.json"), key=lambda each: each.stat().st_mtime)
        for old in files[:-FILES]:
            old.unlink()


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> bytes:
    return json.dumps(digests(dict(tensors))).encode()
