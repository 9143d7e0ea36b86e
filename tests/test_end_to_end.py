"""The whole job, on real images."""

from __future__ import annotations

import json

import pytest
from outer import BENCH, names, succeed

from convswap import Preprocess, accuracy, count, load, open_images
from convswap.recipe import recipe


def test_the_demo(tmp_path):
    """In a hurry: few images and layers, part of an epoch, multiply-adds in place of time, and
    nothing tried or exported for it."""
    rows = run_demo(tmp_path, "data.images=64", "layers={only: [layer1.0*]}", "budget={macs: 0.8}",
                    "distill={epochs: 0.2, lr: 1.0e-4}", "target={name: eager}")  # fmt: skip
    dense, _, recovered = rows.values()
    assert recovered["macs"] <= 0.8 * dense["macs"]
    assert recovered["top1"] >= dense["top1"] - 2


@pytest.mark.slow
def test_the_demo_as_it_is(tmp_path):
    rows = run_demo(tmp_path)
    dense, _, recovered = rows.values()
    assert recovered["macs"] < 0.7 * dense["macs"]
    assert recovered["top1"] >= dense["top1"] - 0.5
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["latency"]["ms"] <= 0.55 * plan["latency"]["ms_dense"]


def run_demo(tmp_path, *changes):
    """The report of the demo, with some settings changed; all that is true however it is run."""
    folder = tmp_path / "out"
    settings = [word for change in changes for word in ("--set", change)]
    rows = succeed("run", "digits", "--out", folder, "--json", *settings).document
    assert list(rows) == ["dense", "converted", "recovered"]
    for row in rows.values():
        assert {"top1", "macs", "params", "bytes", "ms"} <= row.keys()
        assert row["images"] == 597
    dense, converted, recovered = rows.values()
    assert dense["top1"] > 99
    assert recovered["macs"] == converted["macs"]
    assert names(tmp_path) == ["out"]
    assert names(folder) == ["converted", "plan.json", "recovered", "report.html", "report.json"]
    assert json.loads((folder / "report.json").read_text()) == rows
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["planned"]["macs"] == converted["macs"]
    assert plan["planned"]["params"] == converted["params"]
    assert plan["dense"]["macs"] == dense["macs"]
    held_out = open_images("digits", Preprocess(input_size=(1, 64, 64), mean=(0.5,), std=(0.5,)),
                           held_out=True)  # fmt: skip
    for stage in ("converted", "recovered"):
        network = load(folder / stage)
        top1 = accuracy(network, held_out.batches(128))["top1"]
        assert top1 == pytest.approx(rows[stage]["top1"])
        assert vars(count(network, (1, 64, 64))).items() <= rows[stage].items()
    return rows


def test_the_weights_of_the_demo_are_small():
    assert (recipe.folder() / "digits.safetensors").stat().st_size < 2e6


@pytest.mark.slow
@pytest.mark.skipif(not BENCH.is_dir(), reason=f"{BENCH} (real weights and images) is absent")
def test_resnet20_at_half_its_multiply_adds_still_classifies(tmp_path):
    code, val = f"{BENCH / 'cifar_resnet.py'}:resnet20", BENCH / "cifar10-jpeg" / "val.tar"
    weights, train = BENCH / "resnet20.safetensors", BENCH / "cifar10-jpeg" / "train.tar"
    out = tmp_path / "r20"
    made = succeed("convert", code, "--weights", weights, "--data", train, "--images", 200,
                   "--macs", 0.5, "--out", out, "--json").document  # fmt: skip
    judge = ("--data", val, "--images", 1000, "--json")
    dense = succeed("evaluate", code, "--weights", weights, *judge).document
    small = succeed("evaluate", out, "--model", code, *judge).document
    assert made["macs"] == small["macs"] <= 0.5 * dense["macs"]
    assert dense["top1"] > 86
    assert small["top1"] > dense["top1"] - 6
