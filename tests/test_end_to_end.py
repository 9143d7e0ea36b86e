"""The whole job, on real images."""

from __future__ import annotations

import json

import pytest
from outer import BENCH, succeed

from convswap import Preprocess, accuracy, count, load, open_images
from convswap.recipe import recipe


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    return folder, succeed("run", "digits", "--out", folder, "--json").document


def test_the_demo_has_a_row_per_stage(demo):
    assert list(demo[1]) == ["dense", "converted", "recovered"]
    for row in demo[1].values():
        assert {"top1", "macs", "params", "bytes", "ms"} <= row.keys()
        assert row["images"] == 597


def test_the_demo_keeps_at_most_its_share_of_the_multiply_adds(demo):
    dense, converted, recovered = demo[1].values()
    assert converted["macs"] <= 0.35 * dense["macs"]
    assert recovered["macs"] == converted["macs"]
    assert recovered["bytes"] < 0.7 * dense["bytes"]


def test_the_demo_loses_at_most_half_a_point(demo):
    dense, _, recovered = demo[1].values()
    assert dense["top1"] > 95
    assert recovered["top1"] >= dense["top1"] - 0.5


@pytest.mark.parametrize("stage", ["converted", "recovered"])
def test_an_artifact_of_the_demo_has_the_figures_of_the_table(stage, demo):
    folder, rows = demo
    network = load(folder / stage)
    held_out = open_images("digits", Preprocess(input_size=(1, 32, 32), mean=(0.5,), std=(0.5,)),
                           held_out=True)  # fmt: skip
    assert accuracy(network, held_out.batches(128))["top1"] == pytest.approx(rows[stage]["top1"])
    assert count(network, (1, 32, 32)).macs == rows[stage]["macs"]
    assert (folder / stage / "model.safetensors").stat().st_size == rows[stage]["bytes"]


def test_the_plan_of_the_demo_predicts_what_is_counted(demo):
    folder, rows = demo
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["planned"]["macs"] == rows["converted"]["macs"]
    assert plan["planned"]["params"] == rows["converted"]["params"]
    assert plan["dense"]["macs"] == rows["dense"]["macs"]


def test_the_demo_leaves_its_results_and_nothing_else(demo):
    folder, rows = demo
    assert sorted(path.name for path in folder.iterdir()) == [
        "converted", "plan.json", "recovered", "report.json",
    ]  # fmt: skip
    assert json.loads((folder / "report.json").read_text()) == rows
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


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
