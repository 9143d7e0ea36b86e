"""The rules of the house that a reader cannot see by looking at one file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from outer import REPOSITORY

PACKAGE = REPOSITORY / "convswap"
ORDER = (
    "cli recipe results artifact recovery surgery planning fitting inputs timing runtimes "
    "statistics network forms record plans support errors"
).split()
FILES = sorted(PACKAGE.rglob("*.py"))
PARTS = [path for path in FILES if path.relative_to(PACKAGE).with_suffix("").parts[0] in ORDER]


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All of a tree, but what is there for type checkers alone."""
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING"):
            yield child
            yield from nodes(child)


def imported(path: Path) -> Iterator[str]:
    """The parts of the package that a file imports from, wherever in it."""
    folder = path.parent.relative_to(PACKAGE).parts
    for node in nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) - node.level + 1]
            names = [*base, *(node.module.split(".") if node.module else ())]
            yield from names[:1] or [alias.name for alias in node.names]


@pytest.mark.parametrize("path", PARTS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    own = ORDER.index(path.relative_to(PACKAGE).with_suffix("").parts[0])
    known = [ORDER.index(part) for part in imported(path) if part in ORDER]
    assert [ORDER[part] for part in known if part < own] == []


def test_every_part_of_the_package_has_its_place_in_the_order():
    found = {path.name.removesuffix(".py") for path in PACKAGE.glob("[!_]*")}
    assert found - {"__pycache__", "py.typed"} == {*ORDER}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_prints(path):
    calls = [node for node in nodes(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(node, ast.Call)]  # fmt: skip
    prints = [call.lineno for call in calls if getattr(call.func, "id", "") == "print"]
    assert prints == [] or path.parent.name == "cli"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_text_is_read_and_written_as_utf8(path):
    for node in nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            method, function = (getattr(node.func, kind, "") for kind in ("attr", "id"))
            if method in ("read_text", "write_text") or function == "open":
                assert "encoding" in [word.arg for word in node.keywords], node.lineno


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda path: path.stem)
def test_verbs_are_short(path):
    functions = [node for node in ast.parse(path.read_text(encoding="utf-8")).body
                 if isinstance(node, ast.FunctionDef)]  # fmt: skip
    assert [f.name for f in functions if f.end_lineno - f.lineno + 1 >= 40] == []


def test_files_named_by_the_architecture_are_there():
    text = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:convswap|tests|recipes)/[\w/]+(?:\.\w+)?)`", text)
    assert len(named) > 10
    assert [name for name in named if not (REPOSITORY / name).exists()] == []
    assert len(text.splitlines()) <= 60
    assert " > ".join(ORDER) in " ".join(text.split())
