"""convswap export."""

from __future__ import annotations

from outer import names, succeed


def test_export_writes_both_formats_and_says_how_close_they_are(here):
    done = succeed("export", "art", "--model", "model.py:build", "--onnx", "o.onnx", "--pt2",
                   "o.pt2", "--data", "data", "--json")  # fmt: skip
    assert set(done.document["max_abs_diff"]) == {"onnx", "pt2"}
    assert max(done.document["max_abs_diff"].values()) < 1e-4
    assert done.document["real_images"] is True
    assert {"o.onnx", "o.pt2"} <= set(names())
