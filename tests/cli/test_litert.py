"""Files of LiteRT: equal outputs, depthwise layers as such, nothing turned over on the way."""

from __future__ import annotations

import re
import sys
import tempfile

import pytest
import torch
from helpers import image_batches, plan_for, relative, tiny
from outer import fail, succeed
from torch import nn

from convswap import ConvswapError, convert, export_tflite, open_target
from convswap.runtimes.litert import LiteRtNetwork, export_tflite_int8

SIZE = (3, 16, 16)


@pytest.fixture(scope="module")
def installed():
    pytest.importorskip("litert_torch", reason="litert-torch is not installed (1 GB)")


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(24, 16, 3, padding=1), nn.ReLU(),
    )  # fmt: skip
    choices = {"2": ("bottleneck", 8), "4": ("spatial", 6)}
    return convert(model.eval(), plan_for(model, SIZE, choices), image_batches(SIZE))


def operators(path) -> list[str]:
    """Of a file, as it is before anything is handed to a delegate."""
    from ai_edge_litert import interpreter

    opened = interpreter.Interpreter(
        str(path),
        experimental_op_resolver_type=interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    opened.allocate_tensors()
    return [each["op_name"] for each in opened._get_ops_details()]


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_outputs_are_those_of_the_network(installed, small, tmp_path, last):
    images = image_batches(SIZE)[0]
    gap = export_tflite(small, images, tmp_path / "net.tflite", channels_last=last)
    assert gap < 1e-5
    network = LiteRtNetwork(tmp_path / "net.tflite", 1, last)
    with torch.no_grad():
        assert relative(network(images)[0], small(images)) < 1e-5


def test_layers_stay_what_they_are(installed, small, tmp_path):
    export_tflite(small, image_batches(SIZE)[0], tmp_path / "net.tflite", channels_last=True)
    found = operators(tmp_path / "net.tflite")
    assert found.count("DEPTHWISE_CONV_2D") == 1
    assert found.count("CONV_2D") == 5
    assert "TRANSPOSE" not in found


def test_integers_are_close_and_smaller(installed, small, tmp_path):
    batches = [(batch,) for batch in image_batches(SIZE, count=4)]
    quantised, plain = export_tflite_int8(small, batches, tmp_path / "net.tflite")
    images = image_batches(SIZE, seed=1)[0]
    with torch.no_grad():
        wanted = small(images)
    assert relative(plain(images)[0], wanted) < 1e-5
    assert relative(quantised(images)[0], wanted) < 0.03
    assert quantised.bytes < plain.bytes


def test_several_outputs_keep_their_order(installed, tmp_path):
    model, size = tiny("two outputs")
    assert export_tflite(model, image_batches(size)[0], tmp_path / "net.tflite") < 1e-5


def test_the_command_writes_it(installed, here):
    done = succeed("export", "art", "--model", "model.py:build", "--tflite", "o.tflite",
                   "--channels-last", "--data", "data", "--json")  # fmt: skip
    assert done.document["max_abs_diff"]["tflite"] < 1e-4
    assert done.err.splitlines()[-1] == "wrote o.tflite"
    done = succeed("export", "art", "--model", "model.py:build", "--tflite", "q.tflite", "--int8",
                   "--data", "data", "--json")  # fmt: skip
    assert done.document["int8"]["int8"]["r2"] > 0.9


def test_a_package_that_is_missing_is_named(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(ConvswapError, match=re.escape("pip install 'convswap[litert]'")):
        export_tflite(small, image_batches(SIZE)[0], tmp_path / "net.tflite")
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(ConvswapError, match="PyTorch up to"):
        open_target("litert")


def test_a_disk_too_small_is_told_before_the_converter_ends_the_process(
    small, tmp_path, monkeypatch
):
    resource = pytest.importorskip("resource", reason="limits are POSIX")
    monkeypatch.setitem(sys.modules, "litert_torch", object())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match=re.escape(tempfile.gettempdir())):
            export_tflite(small, image_batches(SIZE)[0], tmp_path / "net.tflite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(("options", "words"), [
    ("--onnx o --channels-last", "goes with --tflite"),
    ("--pt2 o --int8 --data data", "one of --onnx and --tflite"),
    ("--tflite o --opset 13", "go with --onnx"),
])  # fmt: skip
def test_options_of_another_file_are_refused(options, words, shared):
    assert words in fail("export", "art", "--model", "model.py:build", *options.split())
