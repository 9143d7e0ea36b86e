"""convswap bench."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from outer import convswap, fail, succeed

BENCH = ("bench", "art", "--model", "model.py:build", "--seconds", "0.01")


def test_bench_compares_with_the_original(shared):
    found = succeed(*BENCH, "--json", "--threads", 1, "--batch", 2).document
    assert found["latency_ratio"] == pytest.approx(found["ms"] / found["ms_dense"])
    assert found["images_per_second"] == pytest.approx(2000 / found["ms"])
    assert min(found["spread"], found["spread_dense"]) >= 0
    assert found["bytes"] < found["bytes_dense"]
    assert (found["target"], found["threads"], found["batch"]) == ("eager", 1, 2)
    assert found["torch"] == torch.__version__
    assert "layers" not in found


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_bench_runs_on_other_targets(target, shared):
    pytest.importorskip(target, reason=f"{target} is not installed")
    found = succeed(*BENCH, "--target", target, "--json").document
    assert found["target"] == target
    assert found["latency_ratio"] > 0


def test_bench_of_layers_gives_each_of_them(here, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    done = succeed(*BENCH, "--layers", "--json")
    (layer,) = done.document["layers"]
    assert (layer["site"], layer["form"], layer["rank"]) == ("body", "channel", 3)
    assert layer["macs_kept"] == pytest.approx((8 * 9 * 3 + 3 * 8) / (8 * 8 * 9))
    assert min(layer["ms"], layer["ms_dense"]) > 0
    assert layer["ms_planned"] is None
    assert "latency: 1 of 1 done" in done.err
    again = succeed(*BENCH, "--layers", "--json")
    assert again.document["layers"] == [layer]
    assert "latency" not in again.err


def test_bench_of_layers_prints_a_table(here, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    lines = succeed(*BENCH, "--layers", "--quiet").out.splitlines()
    assert lines[0].split()[:4] == ["layer", "form", "rank", "MACs"]
    assert lines[1].split()[:4] == ["body", "channel", "3", "42%"]


@pytest.mark.parametrize("more", [(), ("--layers",)])
def test_bench_draws(more, here, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    succeed(*BENCH, *more, "--picture", "times.png")
    assert Path("times.png").read_bytes().startswith(b"\x89PNG")
    assert "times.png exists" in fail(*BENCH, "--picture", "times.png")


def test_what_bench_cannot_draw_or_measure_is_refused_at_once(here):
    assert "times.txt is not the name of a picture" in fail(*BENCH, "--picture", "times.txt")
    assert convswap(*BENCH, "--seconds", "-1").code == 2


def test_bench_prints_a_table(shared):
    done = succeed("bench", "art", "--model", "model.py:build", "--seconds", "0.01", "--threads", 1)
    assert "dense" in done.out
    assert "art" in done.out


def test_bench_of_a_network_against_itself_is_about_one(shared):
    done = succeed("bench", "art", "--model", "model.py:build", "--against", "art", "--seconds",
                   "0.01", "--json")  # fmt: skip
    assert done.document["ms"] > 0
