"""convswap recipes: see what recipes there are, take one, check one."""

from __future__ import annotations

import filecmp
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from ..errors import one_line
from ..recipe import recipe
from ..support.files import check_new, claimed, new_file
from . import console
from . import options as o

app = App(name="recipes", help="List, show, copy and check recipes.")


@app.command(name="list", help_epilogue="Example: convswap recipes list")
def list_() -> None:
    """Names of the recipes that come with convswap, and what each does."""
    for name, path in recipe.shipped().items():
        lines = path.read_text(encoding="utf-8").splitlines()
        first = next(line for line in lines if not line.startswith(recipe.FOR_EDITORS))
        first = first.removeprefix("#").strip()
        console.out.print(f"{name:<18}{first}", soft_wrap=True)


@app.command(help_epilogue="Example: convswap recipes show digits")
def show(name: o.Recipe, /) -> None:
    """Print a recipe."""
    from rich.syntax import Syntax

    text = console.clean(recipe.text_of(recipe.find(name)))
    console.out.print(Syntax(text, "yaml") if console.out.is_terminal else text, soft_wrap=True)


@app.command(help_epilogue="Example: convswap recipes copy digits mine.yaml")
def copy(
    name: o.Recipe,
    to: Annotated[str, Parameter(name="FILE", help="file to write")],
    /,
    *,
    force: o.Force = False,
) -> None:
    """Copy a recipe, to change it, with the weights and the schema that lie beside it."""
    source = recipe.find(name)
    schema, weights = source.with_name(recipe.SCHEMA), recipe.load(source).model.weights
    copies, shared = {source: check_new(to, force)}, []
    for path in dict.fromkeys((schema, Path(weights or schema))):
        place = Path(to).with_name(path.name)
        if not path.is_file() or path.parent != source.parent:
            continue
        if place.is_file() and filecmp.cmp(path, place, shallow=False):
            shared.append(place)
        elif path != schema or not place.exists():  # another schema is somebody's own
            copies[path] = check_new(place, force)
    with ExitStack() as all_or_none:
        for place in shared:
            all_or_none.enter_context(claimed(place, wait=True))  # what a killed run left goes
        for original, copied in copies.items():
            temporary = all_or_none.enter_context(new_file(copied))
            temporary.write_bytes(original.read_bytes())
    for copied in copies.values():
        console.wrote(copied)


@app.command(help_epilogue="Example: convswap recipes check mine.yaml")
def check(name: o.Recipe, /, *, settings: o.Settings = ()) -> None:
    """Check a recipe; all problems are reported together."""
    recipe.load(recipe.find(name), settings)
    console.out.print(one_line(f"{name} is a valid recipe"), soft_wrap=True)


@app.command(name="schema", help_epilogue="Example: convswap recipes schema")
def schema_() -> None:
    """Print the JSON Schema of recipes, by which editors complete and check them."""
    console.out.print(json.dumps(recipe.schema(), indent=1), soft_wrap=True, highlight=False)
