"""convswap evaluate."""

from __future__ import annotations

import shutil
from pathlib import Path

from outer import USER, convswap, succeed

from convswap.results.folders import rows_of
from convswap.support.figures import FIGURES


def test_evaluate_gives_accuracy_and_cost(shared):
    told = succeed("evaluate", *USER, "--data", "data", "--json")
    assert "of data right, as guesses among 4 classes would: it may" in told.err  # random weights
    done = told.document
    assert {"top1", "top5", "images", "macs", "params", "bytes", "skipped"} <= done.keys()
    assert done["images"] == 40
    assert done["skipped"] == 0
    assert done["top5"] == 100  # of four classes


def test_evaluate_refuses_classes_that_the_network_does_not_have(here):
    shutil.rmtree("data/dog")
    refused = convswap("evaluate", *USER, "--data", "data")
    assert refused.code == 2
    assert "data has 3 classes, the network 4, and does not name them as any of its" in refused.err
    assert "data has no labels" in refused.err


def test_evaluate_reads_a_tar_as_it_reads_the_folder(shared):
    folder = succeed("evaluate", *USER, "--data", "data", "--json").document
    assert succeed("evaluate", *USER, "--data", "data.tar", "--json").document == folder


def test_evaluate_counts_the_images_it_skipped(shared):
    done = succeed("evaluate", *USER, "--data", "few", "--json").document
    assert done["skipped"] == 2
    assert done["images"] == 38


def test_evaluate_says_that_it_skipped_images(shared):
    assert "skipped 2 unreadable images of few" in succeed("evaluate", *USER, "--data", "few").err


def test_evaluate_against_another_network_needs_no_labels(shared):
    done = succeed("evaluate", "art", "--model", "model.py:build", "--data", "flat", "--against",
                   "model.py:build", "--weights", "weights.safetensors",
                   "--json").document  # fmt: skip
    assert done["kl"] >= 0
    assert done["r2"] < 1
    assert done["images"] == 4


def test_evaluate_against_the_same_network_is_still_json(shared):
    done = succeed("evaluate", "model.py:build", "--data", "flat", "--against", "model.py:build",
                   "--json").document  # fmt: skip
    assert done["r2"] == 1
    assert done["agreement"] == 100


def test_a_colour_network_reads_gray_images(shared):
    assert succeed("evaluate", *USER, "--data", "gray", "--json").document["images"] == 8


def test_a_gray_network_reads_colour_images(shared):
    done = succeed("evaluate", "model.py:build", "--model-arg", "channels=1", "--data", "data",
                   "--json")  # fmt: skip
    assert done.document["images"] == 40


def test_a_gray_timm_network_reads_colour_images(shared):
    done = succeed("evaluate", "timm:resnet18", "--random-weights", "--model-arg", "in_chans=1",
                   "--model-arg", "channels=[8,8,16,16]", "--model-arg", "num_classes=4",
                   "--input-size", "1,32,32", "--data", "data", "--json")  # fmt: skip
    assert done.document["images"] == 40


def test_what_is_said_of_weights_is_the_others_where_a_folder_is_compared(shared):
    pair = ("art", "--model", "model.py:build", "--data", "flat", "--against", "model.py:build")
    own = succeed("evaluate", *pair, "--weights", "weights.safetensors", "--json").document
    fresh = succeed("evaluate", *pair, "--random-weights", "--json").document
    assert fresh["r2"] < own["r2"]


def test_a_folder_has_one_size_whoever_tells_it(here):
    size = succeed("evaluate", "art", "--model", "model.py:build", "--data", "data",
                   "--json").document["bytes"]  # fmt: skip
    assert rows_of("art")["converted"]["bytes"] == size
    card = Path("art/README.md").read_text(encoding="utf-8")
    assert FIGURES["bytes"][1](size) in card
    assert size < Path("art/model.safetensors").stat().st_size
