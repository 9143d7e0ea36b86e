"""What the folder of a run is known by, and whether its run has ended."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ..artifact import DESCRIPTION
from ..support.files import read_text
from .recipe import Recipe

MARK = ".unfinished"  # in a folder whose run has not ended, with the digest of its recipe
SIGNS = (MARK, f"converted/{DESCRIPTION}")  # what the folder of a run is known by


def unfinished(recipe: Recipe, folder: str | Path) -> bool:
    """Whether a folder is what a stopped or killed run of this very recipe left."""
    try:
        return read_text(Path(folder) / MARK) == digest_of(recipe)
    except (OSError, ValueError):
        return False


def digest_of(recipe: Recipe) -> str:
    return hashlib.sha256(json.dumps(recipe.model_dump()).encode()).hexdigest()
