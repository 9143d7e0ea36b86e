"""convswap plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from outer import USER, WIDE, convswap, fail, squeezed, succeed, tree


def test_plan_writes_what_convert_reads(here):
    done = succeed("plan", *USER, "--data", "data", "--macs", "0.5", "--out", "p.json", "--json")
    assert done.document == json.loads(Path("p.json").read_text())
    made = succeed("convert", *USER, "--data", "data", "--plan", "p.json", "--out", "o", "--json")
    assert made.document["plan"]["choices"] == done.document["choices"]
    assert made.document["macs"] == done.document["planned"]["macs"]
    assert made.document["macs"] <= 0.5 * done.document["dense"]["macs"]


def test_fewer_images_than_would_not_fit_are_used_and_that_is_said(here):
    done = succeed("plan", *USER, "--data", "data", "--input-size", "3,96,96", "--memory", "0.01",
                   "--macs", "0.8", "--out", "small.json")  # fmt: skip
    assert "images in place of 40" in done.err


def test_memory_for_not_even_one_image_is_refused(shared):
    line = fail("plan", *USER, "--data", "data", "--input-size", "3,1024,1024", "--memory", "0.01",
                "--macs", "0.8", "--out", "small.json")  # fmt: skip
    assert "memory of 0.01 GiB is too little" in line
    assert not Path("small.json").exists()


def test_options_of_a_target_are_for_budgets_of_time(shared):
    for words in (["--target", "openvino"], ["--dtype", "float16"], ["--batch", "8"]):
        line = fail("plan", *USER, "--macs", "0.5", *words, "--out", "never.json")
        assert "go with --latency" in line
    assert not Path("never.json").exists()


def test_the_least_reachable_budget_is_reachable(here):
    line = fail(*"plan model.py:build --data data --macs 0.01 --out o".split(), code=1)
    least = line.split("asked, ")[1].split()[0]
    succeed("plan", "model.py:build", "--data", "data", "--macs", least, "--out", "o")


def test_no_budget_is_answered_with_time_as_well(shared):
    assert "--latency" in fail("plan", "model.py:build", "--data", "data", "--out", "o")


def test_batches_of_no_images_are_answered_with_usage(shared):
    done = convswap("plan", "model.py:build", "--latency", "0.5", "--batch", "0", "--out", "o")
    assert done.code == 2
    assert "--batch" in done.err


def test_pretrained_weights_that_cannot_be_fetched_are_explained(monkeypatch):
    import timm

    def offline(name, pretrained, **kwargs):
        raise OSError("no network\nand a second line")

    monkeypatch.setattr(timm, "create_model", offline)
    line = fail("plan", "timm:resnet18", "--macs", "0.5", "--out", "plan.json")
    assert "no network" in line
    assert "--random-weights" in line


def test_plan_by_time_measures_and_says_so(timed):
    found = succeed("plan", *WIDE, "--batch", 1, "--out", "p.json", "--json").document
    assert found == json.loads(Path("p.json").read_text())
    assert found["budget"]["latency"] == 0.8
    latency = found["latency"]
    assert (latency["target"], latency["threads"], latency["batch"]) == ("eager", 1, 1)
    assert (latency["device"], latency["dtype"]) == ("cpu", "float32")
    assert 0 < latency["ms"] < latency["ms_dense"]
    assert "body" in {choice["site"] for choice in found["choices"]}
    for choice in found["choices"]:
        assert 0 < choice["ms"] < choice["ms_dense"]


def test_plan_by_time_prints_what_was_measured(timed):
    done = succeed("plan", *WIDE, "--out", "p.json", "--quiet")
    assert "ms before" in done.out
    assert "threads 1, batch 1" in squeezed(done.out)


def test_a_time_out_of_reach_is_answered_with_the_least(timed):
    before = tree(timed)
    wide = list(WIDE)
    wide[wide.index("0.8")] = "0.001"
    line = fail("plan", *wide, "--out", "p.json", code=1)
    assert "latency 0.001 asked" in line
    assert "is the least" in line
    assert tree(timed) == before


@pytest.mark.parametrize(("given", "output"), [
    ([], "logits"), (["--output", "values"], "values"), (["--output", "logits"], "logits"),
])  # fmt: skip
def test_a_plan_says_what_the_network_puts_out_as_told_or_found_out(given, output, here):
    done = succeed("plan", *USER, "--data", "data", "--macs", "0.5", *given, "--out", "p.json")
    assert json.loads(Path("p.json").read_text())["output"] == output
    assert done.code == 0


def test_layers_are_left_alone_as_asked(here):
    for words, left in ((("--exclude", "stem"), "stem"), (("--only", "stem"), "body")):
        done = succeed("plan", *USER, "--data", "data", "--macs", "0.9", *words, "--out", "p.json",
                       "--force", "--json")  # fmt: skip
        assert left not in [choice["site"] for choice in done.document["choices"]]
