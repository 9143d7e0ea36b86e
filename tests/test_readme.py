"""The README says what there is, and there is what it says."""

from __future__ import annotations

import re
import shlex

import pytest
from outer import REPOSITORY, commands, options, parsed, succeed, write_images

from convswap.recipe import recipe

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


def command_lines() -> list[str]:
    """Every `convswap ...` line of a block for the shell, long lines joined, comments cut."""
    found = []
    for language, block in BLOCKS:
        if language in ("", "sh", "bash", "shell", "console"):
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                for part in re.split(r"&&|\|", line.removeprefix("$ ").partition(" #")[0]):
                    if part.strip().startswith("convswap "):
                        found.append(part.strip())
    return found


@pytest.mark.parametrize("words", [*commands()])
def test_every_command_is_named(words):
    verb, *rest = words.split()
    assert re.search(rf"convswap {verb}\b", README)
    assert all(re.search(rf"\b{verb}\b[^\n]*\b{word}\b", README) for word in rest)


def test_commands_are_shown():
    assert any(line.startswith("convswap run digits") for line in command_lines())
    assert any(line.startswith("convswap convert") for line in command_lines())


def test_every_command_line_parses():
    table = commands()
    for line in command_lines():
        arguments = shlex.split(line)[1:]
        words = next((n for n in (2, 1) if " ".join(arguments[:n]) in table), None)
        assert words, f"no such command: {line}"
        assert parsed(arguments) is table[" ".join(arguments[:words])].default_command


def test_every_option_named_is_one_of_some_command():
    known = {name for command in commands().values() for name in options(command)}
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    named = set(re.findall(r"`(--[a-z][a-z0-9-]+)", prose))
    assert named <= known | {"--help"}


def test_every_relative_link_leads_somewhere():
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", README)
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_python_in_it_compiles():
    blocks = [block for language, block in BLOCKS if language in ("python", "py")]
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")


def test_every_name_imported_or_used_from_the_library_exists():
    import convswap

    names = set(re.findall(r"\bconvswap\.([A-Za-z_]\w*)\(", README))
    assert {"plan", "convert", "save", "load"} <= names
    assert [name for name in names if not hasattr(convswap, name)] == []


def test_every_recipe_is_named():
    assert [name for name in recipe.shipped() if name not in README] == []


def test_it_says_how_to_install_and_test():
    assert "pip install" in README
    assert "pytest" in README


SMALL = (
    "timm:resnet18 --random-weights --model-arg channels=[64,64,64,64] --model-arg num_classes=4 "
    "--input-size 3,64,64"
)
# by others' tests: whole jobs, uploads, and what prints words only
ELSEWHERE = {"run", "push", "completion", *(each for each in commands() if "recipes" in each)}


@pytest.mark.slow
def test_commands_shown_run_one_after_another(tmp_path, monkeypatch):
    """Word for word, but for the network: a smaller one, with random weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_images(tmp_path / "photos", classes=(), each=32, size=(64, 64))
    write_images(tmp_path / "val", size=(64, 64))
    lines = [line for line in command_lines() if not line.startswith("convswap run")]
    assert {line.split()[1] for line in lines} == {*commands()} - ELSEWHERE
    for line in lines:
        arguments = shlex.split(line.replace("timm:resnet50", SMALL))[1:]
        done = succeed(*arguments)
        if "--out" in arguments:
            out = arguments[arguments.index("--out") + 1]
            assert (tmp_path / out).exists()
            assert f"wrote {out}" in done.err
