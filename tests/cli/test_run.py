"""convswap run."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from outer import RECIPE, SIZE, names, succeed

from convswap import load, open_model


def test_run_does_the_whole_job(here):
    done = succeed("run", "tiny.yaml", "--model", "model.py:build", "--out", "o", "--json")
    assert list(done.document) == ["dense", "converted", "recovered"]
    assert done.document == json.loads(Path("o/report.json").read_text())
    assert names("o") == ["converted", "plan.json", "recovered", "report.html", "report.json"]
    for name in ("converted", "recovered"):
        small = load(f"o/{name}", open_model("model.py:build"))
        assert small(torch.zeros(1, 3, SIZE, SIZE)).shape == (1, 4)


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
