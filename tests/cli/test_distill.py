"""convswap distill."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import torch
from outer import USER, converted, fail, names, succeed
from safetensors.torch import load_file

from convswap import ConvswapError, open_model, save
from convswap.cli import opening
from convswap.cli.options import Original


def test_distill_writes_a_network_with_other_weights(here):
    done = succeed("distill", "art", "--model", "model.py:build", "--data", "flat", "--epochs", "1",
                   "--out", "o", "--json")  # fmt: skip
    before, after = load_file("art/model.safetensors"), load_file("o/model.safetensors")
    assert before.keys() == after.keys()
    assert not torch.equal(before["body.expand.weight"], after["body.expand.weight"])
    assert names("o") == ["README.md", "convswap.json", "history.csv", "history.json",
                          "model.safetensors"]  # fmt: skip
    history = json.loads(Path("o/history.json").read_text())
    assert done.document == history
    assert history[0]["step"] == 0
    assert history[-1]["step"] == history[-1]["steps"]
    assert history[-1]["best"] < history[0]["best"]
    assert len(Path("o/history.csv").read_text().splitlines()) == 1 + len(history)
    assert "o.checkpoint.pt" not in names()


def test_distill_that_was_stopped_says_that_it_goes_on(here, monkeypatch):
    words = ["distill", "art", "--model", "model.py:build", "--data", "data", "--epochs", "2"]

    def stopped(*args, **kwargs):
        raise ConvswapError("stopped")

    monkeypatch.setattr("convswap.artifact.save", stopped)
    fail(*words, "--out", "o")
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert "goes on from o.checkpoint.pt" in succeed(*words, "--out", "o").err
    assert "o.checkpoint.pt" not in names()


def test_distill_says_so_if_nothing_came_of_it(here):
    done = succeed("distill", "art", "--model", "model.py:build", "--data", "data", "--epochs", "1",
                   "--lr", "10", "--out", "o")  # fmt: skip
    assert "the network is kept as it was" in done.err
    before, after = load_file("art/model.safetensors"), load_file("o/model.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_distill_tells_how_it_comes_along_and_early_that_nothing_is_gained(here):
    words = ["distill", "art", "--model", "model.py:build", "--data", "data", "--epochs", "32"]
    lines = succeed(*words, "--out", "o").err.splitlines()
    rows = json.loads(Path("o/history.json").read_text())
    told = [line for line in lines if line.startswith("step ")]
    assert len(told) == len(rows)
    assert told[0].startswith(f"step 0 of {rows[0]['steps']}: distance {rows[0]['trained']:.4g}")
    assert all(f"{row['loss']:.4g}" in line for row, line in zip(rows[1:], told[1:], strict=True))
    assert not any("nothing is gained" in line for line in lines)
    assert not any("step " in line for line in succeed(*words, "--quiet", "--out", "p").err)
    done = succeed(*words, "--lr", "10", "--out", "q")
    assert done.err.count("nothing is gained after") == 1


def test_the_course_of_a_training_is_written_for_tensorboard_if_there_is_one(here, monkeypatch):
    words = ["distill", "art", "--model", "model.py:build", "--data", "data", "--epochs", "1",
             "--log", "tensorboard", "--out", "o"]  # fmt: skip
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert "pip install tensorboard" in fail(*words)
    kept: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str):
            assert folder == "runs/o"

        def add_scalar(self, *scalar) -> None:
            kept.append(scalar)

        def flush(self) -> None: ...

    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer)
    )
    succeed(*words)
    rows = json.loads(Path("o/history.json").read_text())
    assert [s for s in kept if s[0] == "best"] == [("best", r["best"], r["step"]) for r in rows]


def test_distill_of_a_network_built_from_a_seed_finds_that_very_network(here):
    succeed("convert", "model.py:build", "--random-weights", "--seed", "3", "--data", "data",
            "--macs", "0.5", "--out", "o")  # fmt: skip
    dense = open_model("model.py:build", random_weights=True, seed=3)
    original = Original(architecture="model.py:build")
    teacher = opening.open_original(opening.open_artifact("o", original), original)
    assert torch.equal(teacher.stem.weight, dense.stem.weight)


def test_an_artifact_of_the_library_is_run_at_the_size_it_was_planned_for(here):
    model = open_model("model.py:build", weights="weights.safetensors")
    save(converted(model, (3, 24, 24), body=("channel", 3)), "mine")
    for words in (
        "bench mine --seconds 0.1",
        "export mine --pt2 mine.pt2",
        "inspect mine",
        "evaluate mine --data data",
        "distill mine --data data --epochs 1 --out o",
    ):
        extra = ["--teacher-weights", "weights.safetensors"] if words[0] in "bd" else []
        done = succeed(*words.split(), "--model", "model.py:build", *extra)
        assert "assumed input size" not in done.err
    record = json.loads(Path("o/convswap.json").read_text())["record"]
    assert record["preprocess"]["input_size"] == [3, 24, 24]


def test_distill_takes_the_output_as_it_was_planned_unless_told(here):
    succeed("convert", *USER, "--data", "data", "--macs", "0.5", "--output", "values", "--out", "v")
    made = []
    for said in ((), ("--output", "values"), ("--output", "logits")):
        succeed("distill", "v", "--model", "model.py:build", "--data", "data", "--epochs", "1",
                "--lr", "1e-4", *said, "--force", "--out", "o")  # fmt: skip
        made.append(Path("o/model.safetensors").read_bytes())
    planned, same, other = made
    assert planned == same
    assert planned != other
