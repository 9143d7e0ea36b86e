"""convswap export."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
from outer import REPOSITORY, names, succeed


def content_of(path: Path) -> list[bytes]:
    """All bytes of a file; of an archive those of each member, unpacked."""
    if not zipfile.is_zipfile(path):
        return [path.read_bytes()]
    with zipfile.ZipFile(path) as archive:
        return [archive.read(name) for name in archive.namelist()]


def test_export_writes_both_formats_and_says_how_close_they_are(here):
    done = succeed("export", "art", "--model", "model.py:build", "--onnx", "o.onnx", "--pt2",
                   "o.pt2", "--data", "data", "--json")  # fmt: skip
    assert set(done.document["max_abs_diff"]) == {"onnx", "pt2"}
    assert max(done.document["max_abs_diff"].values()) < 1e-4
    assert done.document["real_images"] is True
    assert {"o.onnx", "o.pt2"} <= set(names())


def test_integers_are_compared_with_float(here):
    done = succeed("export", "art", "--model", "model.py:build", "--onnx", "o.onnx", "--int8",
                   "--data", "data", "--json")  # fmt: skip
    rows = done.document["int8"]
    assert set(rows) == {"float32", "int8"}
    assert rows["int8"]["bytes"] < rows["float32"]["bytes"] + 5_000  # scales of tiny layers
    assert rows["int8"]["agreement"] > 80
    assert 0.9 < rows["int8"]["r2"] < rows["float32"]["r2"]
    assert min(row["ms"] for row in rows.values()) > 0
    assert "wrote o.onnx" in done.err
    shown = succeed("export", "art", "--model", "model.py:build", "--onnx", "o.onnx", "--int8",
                    "--data", "data", "--force")  # fmt: skip
    assert "top-1" in shown.out


@pytest.mark.parametrize("options", [
    "--onnx", "--int8 --data data --onnx", "--opset 17 --onnx", "--pt2", "--data data --pt2",
])  # fmt: skip
def test_a_file_names_no_folder_of_the_machine(options, here):
    code = here / "model.py"
    succeed("export", "art", "--model", f"{code}:build", *options.split(), "o")
    for content in content_of(Path("o")):
        for folder in (here, REPOSITORY, sys.prefix, sys.base_prefix):
            assert str(folder).encode() not in content


def test_shape_and_operators_of_the_file_are_as_asked(here):
    succeed("export", "art", "--model", "model.py:build", "--onnx", "o.onnx", "--batch", "3",
            "--free-size", "--opset", "17")  # fmt: skip
    import onnx

    model = onnx.load("o.onnx")
    lengths = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    assert lengths == [3, 3, 0, 0]
    assert model.opset_import[0].version == 17
