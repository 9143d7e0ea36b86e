"""convswap recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from outer import RECIPE, fail, names, succeed

from convswap.recipe import recipe


def test_recipes_list_names_every_recipe():
    out = succeed("recipes", "list").out
    assert "digits" in out
    assert all(len(line.split()) > 3 for line in out.splitlines())


def test_recipes_show_prints_the_file_to_the_letter():
    shown = succeed("recipes", "show", "digits").out
    assert shown.strip() == recipe.find("digits").read_text().strip()


@pytest.mark.parametrize("content", [
    RECIPE.encode("utf-16"), RECIPE.replace("A tiny", "Un été").encode("latin-1"), b"\x80\x00",
    b" " * (5 << 20),
], ids=["UTF-16", "latin-1", "binary", "huge"])  # fmt: skip
def test_what_is_no_text_is_not_shown(content, here):
    Path("r.yaml").write_bytes(content)
    assert "cannot read recipe r.yaml" in fail("recipes", "show", "r.yaml")


def test_a_recipe_and_its_name_give_the_terminal_no_commands(here):
    name = "\x1b[31mred\u202e.yaml"
    Path(name).write_text(RECIPE)
    checked = succeed("recipes", "check", name).out
    Path(name).write_text(f"{RECIPE}# \x1b[31m\u202ered\n")
    shown = succeed("recipes", "show", name).out
    assert "# \\x1b[31m\\u202ered\n" in shown
    assert shown.splitlines()[:3] == RECIPE.splitlines()[:3]
    assert checked == "\\x1b[31mred\\u202e.yaml is a valid recipe\n"


def test_recipes_copy_then_check(here):
    succeed("recipes", "copy", "digits", "mine.yaml")
    assert "valid" in succeed("recipes", "check", "mine.yaml").out


def test_all_problems_of_a_recipe_come_together_with_the_nearest_keys(here):
    text = RECIPE
    for right, wrong in {"calibration": "calibratoin", "epochs": "epoch", "macs: 0.5": "macs: 7",
                         "version: 1": "version: 2"}.items():  # fmt: skip
        text = text.replace(right, wrong)
    Path("r.yaml").write_text(text)
    line = fail("recipes", "check", "r.yaml")
    for words in ("data.calibratoin (did you mean calibration?)", "budget.macs", "version",
                  "distill.epoch (did you mean epochs?)", "r.yaml"):  # fmt: skip
        assert words in line


def test_the_schema_beside_the_recipes_is_todays():
    printed = json.loads(succeed("recipes", "schema").out)
    assert printed == json.loads((recipe.folder() / recipe.SCHEMA).read_text(encoding="utf-8"))
    assert printed["properties"]["budget"]


@pytest.mark.parametrize("path", recipe.shipped().values(), ids=lambda path: path.stem)
def test_recipes_that_come_along_name_the_schema(path):
    first, *_ = path.read_text(encoding="utf-8").splitlines()
    assert first == recipe.FOR_EDITORS + recipe.SCHEMA


def test_a_copy_has_the_schema_beside_it_and_a_second_copy_shares_it(here):
    succeed("recipes", "copy", "digits", "mine.yaml")
    assert Path(recipe.SCHEMA).read_bytes() == (recipe.folder() / recipe.SCHEMA).read_bytes()
    done = succeed("recipes", "copy", "resnet20-cifar10", "other.yaml")
    assert done.err == "wrote other.yaml\n"


def test_a_second_copy_shares_the_weights_and_clears_what_a_killed_one_left(here):
    succeed("recipes", "copy", "digits", "mine.yaml")
    for name in (recipe.SCHEMA, "digits.safetensors"):
        Path(f".{name}.convswap").mkdir()
    assert succeed("recipes", "copy", "digits", "other.yaml").err == "wrote other.yaml\n"
    assert not [name for name in names() if name.endswith(".convswap")]
    Path("digits.safetensors").write_text("another")
    assert "digits.safetensors exists" in fail("recipes", "copy", "digits", "third.yaml")
