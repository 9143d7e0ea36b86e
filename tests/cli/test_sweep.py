"""convswap sweep."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from outer import names, succeed


def test_sweep_writes_the_frontier_and_says_where_the_knee_is(here):
    done = succeed("sweep", "model.py:build", "--data", "data", "--val", "data/", "--points", "2",
                   "--least", "0.5", "--out", "frontier")  # fmt: skip
    assert "dense" in done.out
    assert "spread" in done.out
    assert re.search(r"knee: .* of the MACs keep .* of .* \(variance kept %\)", done.out)
    assert "judged on the images that layers are fitted to" in done.err
    assert "as guesses among 4 classes would: judged by how close" in done.err  # random weights
    assert names("frontier") == ["frontier.json", "frontier.png", "report.html"]


def test_sweep_plans_for_the_output_that_is_told(here):
    done = succeed("sweep", "model.py:build", "--data", "data", "--val", "flat", "--points", "2",
                   "--least", "0.5", "--output", "values", "--out", "frontier",
                   "--json")  # fmt: skip
    assert "judged on" not in done.err
    dense, *points = done.document
    assert dense["plan"] is None
    assert all(point["spread"] > 0 for point in done.document)
    assert {point["plan"]["output"] for point in points} == {"values"}
    assert "kl" not in points[0]["figures"]


def test_sweep_is_judged_by_a_function_of_the_users_own(here):
    Path("judges.py").write_text(
        "def few(network):\n    return -sum(p.numel() for p in network.parameters())\n"
    )
    done = succeed("sweep", "model.py:build", "--data", "data", "--judge", "judges.py:few",
                   "--points", "2", "--least", "0.5", "--out", "frontier")  # fmt: skip
    assert "own measure" in done.out
    dense, *points = json.loads(Path("frontier/frontier.json").read_text())
    assert all(point["score"] > dense["score"] for point in points)
    assert "own measure" in Path("frontier/report.html").read_text()


def test_on_a_target_in_integers_quality_is_that_in_integers(here):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    done = succeed("sweep", "model.py:build", "--data", "data", "--val", "flat", "--points", "2",
                   "--least", "0.5", "--target", "onnxruntime-int8", "--out", "frontier",
                   "--json")  # fmt: skip
    dense, *points = done.document
    assert {point["target"] for point in done.document} == {"onnxruntime-int8"}
    assert 0.9 < dense["figures"]["r2"] < 1 - 1e-7
    assert all(point["figures"]["r2"] < dense["figures"]["r2"] for point in points)
