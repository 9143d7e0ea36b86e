"""--data synthetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from outer import RECIPE, USER, fail, succeed


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr("convswap.inputs.synthetic.IMAGES", 16)
    monkeypatch.setattr("convswap.inputs.synthetic.STEPS", 4)


def test_a_network_is_converted_and_trained_without_images(here, small):
    size = ("--input-size", "3,16,16", "--mean", "0.5", "--std", "0.5")
    done = succeed("convert", *USER, "--data", "synthetic", "--macs", "0.5", *size, "--out", "o")
    assert "16 images made up" in done.err
    assert json.loads(Path("o/convswap.json").read_text())["provenance"]["data"] == "synthetic"
    preprocess = json.loads(Path("o/convswap.json").read_text())["record"]["preprocess"]
    assert preprocess["mean"] == [0.5, 0.5, 0.5]  # real images are read as they were to be
    succeed("distill", "o", "--model", "model.py:build", "--teacher-weights", "weights.safetensors",
            "--data", "synthetic", "--epochs", "1", "--out", "p")  # fmt: skip


def test_a_recipe_does_without_images_but_for_those_that_judge(here, small):
    text = RECIPE.replace("calibration: data", "calibration: synthetic")
    Path("r.yaml").write_text(text)
    said = fail("run", "r.yaml", "--model", "model.py:build", "--out", "o")
    assert "judge nothing" in said
    Path("r.yaml").write_text(text.replace("synthetic,", "synthetic, test: data,"))
    succeed("run", "r.yaml", "--model", "model.py:build", "--out", "o")


def test_what_is_made_up_does_not_tell_how_good_a_network_is(shared):
    said = fail("evaluate", "art", "--model", "model.py:build", "--data", "synthetic")
    assert "judge nothing - give real ones" in said


def test_what_is_made_up_judges_nothing(here):
    said = fail("sweep", "model.py:build", "--data", "synthetic", "--out", "o")
    assert "give real ones" in said
    assert not Path("o").exists()
