"""convswap sweep."""

from __future__ import annotations

from outer import names, succeed


def test_sweep_writes_the_frontier_and_says_where_the_knee_is(here):
    done = succeed("sweep", "model.py:build", "--data", "data", "--val", "data", "--points", "2",
                   "--least", "0.5", "--out", "frontier")  # fmt: skip
    assert "dense" in done.out
    assert "knee:" in done.out
    assert names("frontier") == ["frontier.json", "frontier.png"]
