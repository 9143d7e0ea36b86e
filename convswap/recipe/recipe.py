"""Recipes: a whole run as data. A closed vocabulary; a recipe never runs code of its own."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from .. import plans
from ..errors import RecipeError, problem, reason
from ..inputs.names import DIGITS, SYNTHETIC
from ..plans import Budget, Fit, InputSize, Kind, Layers, Mean, Seed, Std, TargetName
from ..support.files import new_file, read_text
from ..support.numbered import Numbered
from ..support.plain import numbers_in, read_yaml

SCHEMA = "recipe.schema.json"  # beside the recipes that come with convswap
FOR_EDITORS = "# yaml-language-server: $schema="  # how a file names it
TEXT_BYTES = 1 << 16  # most that a recipe may have: PyYAML takes a second for so many
_PATHS = (
    ("model", "weights"),
    ("data", "calibration"),
    ("data", "train"),
    ("data", "test"),
)


def _named(path: str) -> str:
    if not path:
        raise ValueError("names nothing")
    if "\0" in path:
        raise ValueError("no path holds a NUL")
    return path


_Path = Annotated[str, AfterValidator(_named)]
_BatchSize = Annotated[int, Field(gt=0, le=plans.TOGETHER)]


class _Section(Numbered, BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _plain(kwargs: dict[str, Any]) -> dict[str, Any]:
    numbers_in(kwargs)
    return kwargs


class ModelSection(_Section):
    """`name` is `timm:NAME` or `torchvision:NAME`; a network of the user's own code is given on
    the command line (`--model file.py:factory`), never by a recipe. `averaged` prefers averaged
    weights where a checkpoint has them; `reparameterize` folds training branches first."""

    name: Annotated[str, Field(pattern=r"^(timm|torchvision):[\w.\-]+$")] | None = None
    kwargs: Annotated[dict[str, Any], AfterValidator(_plain)] = {}
    weights: _Path | None = None
    random_weights: bool = False
    averaged: bool = True
    reparameterize: bool = False


class DataSection(_Section):
    """`calibration` fits, `train` distils (default: calibration), `test` measures (default:
    calibration, unless that is `synthetic`)."""

    calibration: _Path
    train: _Path | None = None
    test: _Path | None = None
    images: Annotated[int, Field(gt=0, le=plans.IMAGES)] = 1000
    batch_size: _BatchSize = 64
    input_size: InputSize | None = None
    mean: Mean | None = None
    std: Std | None = None

    @model_validator(mode="after")
    def _judges(self) -> DataSection:
        if self.calibration == "synthetic" and not self.test:
            raise ValueError("images that are made up judge nothing: give real ones (test)")
        return self


class TargetSection(_Section):
    """Where a budget of latency counts, and where times are measured."""

    name: TargetName = "eager"
    threads: Annotated[int, Field(gt=0, le=plans.THREADS)] | None = None
    batch: _BatchSize = 1


class DistillSection(_Section):
    """`epochs` or `minutes` say for how long, else the number of images does, as for `batch_size`;
    `lr` follows from how much was lost."""

    epochs: Annotated[float, Field(gt=0, le=plans.LONG)] | None = None
    minutes: Annotated[float, Field(gt=0, le=plans.LONG)] | None = None
    batch_size: _BatchSize | None = None
    lr: Annotated[float, Field(gt=0, le=plans.FAST)] | None = None
    labels: bool = False


class Recipe(_Section):
    """What `convswap run` does, in the order it does it.

    Attributes:
        output: what the network puts out, `logits` or `values`; default: found out from it.
    """

    version: Literal[1]
    model: ModelSection
    data: DataSection
    budget: Budget
    target: TargetSection = TargetSection()
    fit: Fit = "corrected"
    output: Kind | None = None
    layers: Layers = Layers()
    distill: DistillSection | None = None
    seed: Seed = 0


def folder() -> Path:
    """Where the recipes that come with convswap are: in the package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.with_name("recipes")


def shipped() -> dict[str, Path]:
    """Name -> file of every recipe that comes with convswap."""
    return {path.stem: path for path in sorted(folder().rglob("*.yaml"))}


def find(name: str) -> Path:
    """The file of a recipe: a path, or the name of one that comes with convswap.

    Raises:
        RecipeError: there is none.
    """
    if name in shipped():
        return shipped()[name]
    path = Path(name)
    if path.is_file():
        return path
    raise RecipeError(
        f"no recipe {name!r}",
        do=f"give a file, or one of {', '.join(shipped())} (`convswap recipes list`)",
    )


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Paths in it are relative to its own folder; paths in overrides to the working directory.

    Args:
        overrides: `section.key=value`, the value in YAML.

    Raises:
        RecipeError: with every problem found, and for unknown keys the nearest known one.
    """
    path = Path(path)
    try:
        content = read_yaml(text_of(path))
    except ValueError as error:
        raise RecipeError(f"cannot read recipe {path}: {reason(error)}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"recipe {path} is not a mapping of sections")
    for section, key in _PATHS:
        _resolve(content, section, key, path.parent)
    for override in overrides:
        _apply(content, override)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise RecipeError(
            f"invalid recipe: {'; '.join(map(_explain, error.errors()))}",
            where=" with ".join([str(path), *overrides]),
        ) from None


def text_of(path: Path) -> str:
    """The text of a recipe.

    Raises:
        RecipeError: it cannot be read.
    """
    try:
        return read_text(path, TEXT_BYTES)
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot read recipe {path}: {reason(error)}") from None


def schema() -> dict[str, Any]:
    """The JSON Schema of recipes, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Recipe.model_json_schema()


def dump(recipe: Recipe, path: str | Path) -> None:
    """Write a recipe that says no more than it needs to, its paths as seen from its own folder."""
    path = Path(path)
    content = recipe.model_dump(mode="json", exclude_defaults=True)
    content = {"version": recipe.version} | content
    for section, key in _PATHS:
        part = content.get(section) or {}
        if part.get(key) not in (None, *(DIGITS, SYNTHETIC)):
            part[key] = os.path.relpath(part[key], path.absolute().parent)
    with new_file(path) as temporary:
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
        temporary.write_text(text, encoding="utf-8")


def _resolve(content: dict, section: str, key: str, base: Path) -> None:
    part = content.get(section)
    if (
        isinstance(part, dict)
        and isinstance(part.get(key), str)
        and part[key] not in ("", *(DIGITS, SYNTHETIC))
    ):
        part[key] = str(base / part[key])


def _apply(content: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    *sections, last = key.split(".")
    part: Any = content
    for section in sections:
        part = part.setdefault(section, {}) if isinstance(part, dict) else None
    if not equals or not isinstance(part, dict):
        raise RecipeError(f"cannot set {override!r}", do="write section.key=value")
    try:
        part[last] = read_yaml(text)
    except ValueError:
        raise RecipeError(f"cannot set {override!r}: the value is not YAML") from None


def _explain(found: Mapping[str, Any]) -> str:
    if found["type"] != "extra_forbidden":
        return problem(found)
    *sections, last = map(str, found["loc"])
    known: Any = Recipe
    for section in sections:
        field = known.model_fields[section].annotation
        options = [field, *getattr(field, "__args__", ())]
        known = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    close = difflib.get_close_matches(last, known.model_fields, n=1, cutoff=0.3)
    where = ".".join(map(str, found["loc"]))
    return f"unknown key {where}" + (f" (did you mean {close[0]}?)" if close else "")
