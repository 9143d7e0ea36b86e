"""convswap run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from outer import RECIPE, SIZE, fail, names, succeed
from safetensors.torch import load_file, save_file

from convswap import ConvswapError, count, load, open_model, record_of


def test_run_does_the_whole_job(here):
    done = succeed("run", "tiny.yaml", "--model", "model.py:build", "--out", "o", "--json")
    assert list(done.document) == ["dense", "converted", "recovered"]
    assert done.document == json.loads(Path("o/report.json").read_text())
    assert names("o") == ["converted", "plan.json", "recovered", "report.html", "report.json"]
    for name in ("converted", "recovered"):
        small = load(f"o/{name}", open_model("model.py:build"))
        assert small(torch.zeros(1, 3, SIZE, SIZE)).shape == (1, 4)


@pytest.mark.parametrize(("part", "left"), [
    ("convert", None), ("training_batches", None), ("open_judges", None),
    ("distill", [".unfinished", "converted", "plan.json"]),
    ("measure", [".unfinished", "checkpoint.pt", "converted", "plan.json", "recovered"]),
])  # fmt: skip
def test_a_run_that_fails_goes_on_from_what_is_finished(part, left, here, monkeypatch):
    def failing(*args, **kwargs):
        raise ConvswapError("it failed")

    monkeypatch.setattr(f"convswap.recipe.job.{part}", failing)
    job = ("run", "tiny.yaml", "--model", "model.py:build", "--out", "o")
    fail(*job)
    assert (names("o") if Path("o").exists() else None) == left
    monkeypatch.undo()
    monkeypatch.chdir(here)
    if left:  # times would be others, and with them the plan
        monkeypatch.setattr("convswap.recipe.job.plan", failing)
    if part == "measure":  # trained already
        monkeypatch.setattr("convswap.recovery.training.Training.learn", failing)
    succeed(*job)
    assert names("o") == ["converted", "plan.json", "recovered", "report.html", "report.json"]
    history = json.loads(Path("o/recovered/history.json").read_text())
    assert [row["step"] for row in history] == sorted({row["step"] for row in history})


@pytest.mark.parametrize("other", ["recipe", "network"])
def test_what_was_trained_of_something_else_is_trained_anew(other, here, monkeypatch):
    def failing(*args, **kwargs):
        raise ConvswapError("it failed")

    monkeypatch.setattr("convswap.recipe.job.measure", failing)
    job = ("run", "tiny.yaml", "--model", "model.py:build", "--out", "o")
    fail(*job)
    monkeypatch.undo()
    monkeypatch.chdir(here)
    if other == "network":
        weights = load_file("weights.safetensors")
        save_file(weights | {"stem.bias": weights["stem.bias"] + 1}, "weights.safetensors")
    succeed(*job, *(("--set", "seed=3", "--force") if other == "recipe" else ()))
    assert names("o") == ["converted", "plan.json", "recovered", "report.html", "report.json"]


def test_a_run_folds_batch_norms_where_asked(here):
    text = RECIPE.replace("images: 24", "images: 16") + "layers: {fold_norms: true}\n"
    Path("r.yaml").write_text(text)
    done = succeed("run", "r.yaml", "--model", "model.py:build", "--out", "o", "--json")
    for stage in ("converted", "recovered"):
        small = load(f"o/{stage}", open_model("model.py:build"))
        assert record_of(small).norms == {"norm": "stem"}
        assert done.document[stage]["params"] == count(small, (3, 16, 16)).params


def test_a_run_for_integers_measures_in_integers(here):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    text = RECIPE.replace("distill: {epochs: 1, batch_size: 8}", "target: {name: onnxruntime-int8}")
    Path("r.yaml").write_text(text.replace("data: {", "data: {test: flat, "))
    done = succeed("run", "r.yaml", "--model", "model.py:build", "--out", "o", "--json")
    assert done.document["dense"]["r2"] < 1 - 1e-7
    weights = Path("o/converted/model.safetensors").stat().st_size
    assert done.document["converted"]["bytes"] != weights


def test_a_recipe_with_a_target_is_run(timed):
    text = RECIPE
    for before, after in {
        "images: 24": "images: 16",
        "3, 16, 16": "3, 32, 32",
        "{macs: 0.5}": "{latency: 0.8}",
        "weights: weights.safetensors": "kwargs: {width: 128}",
        "distill: {epochs: 1, batch_size: 8}":
            "target: {name: eager, threads: 1, batch: 1}\nfit: weight",
    }.items():  # fmt: skip
        text = text.replace(before, after)
    Path("r.yaml").write_text(text)
    succeed("run", "r.yaml", "--model", "model.py:build", "--out", "o")
    made = json.loads(Path("o/plan.json").read_text())
    assert made["latency"]["target"] == "eager"
    assert made["latency"]["ms"] < made["latency"]["ms_dense"]
