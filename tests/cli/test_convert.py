"""convswap convert."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from outer import SIZE, USER, WIDE, as_torchrun_tells, fail, names, succeed, tree, write_plan

from convswap import Budget, Plan, count, load, open_model, record_of
from convswap.cli.goal_options import GoalOptions
from convswap.cli.options import Fitting
from convswap.plans import Drop
from convswap.support.plain import pathless, read_yaml


@pytest.mark.parametrize("bound", ["params", "bytes"])
def test_convert_by_a_budget_writes_an_artifact(bound, here):
    done = succeed("convert", *USER, "--data", "data", f"--{bound}", "0.7", "--out", "o")
    assert "layers converted" in done.out or "layer converted" in done.out
    assert names("o") == ["README.md", "convswap.json", "model.safetensors"]
    dense = open_model("model.py:build")
    small, dense = (getattr(count(m, (3, SIZE, SIZE)), bound) for m in (load("o", dense), dense))
    assert small <= 0.7 * dense


def test_convert_without_images_fits_to_the_weights(here):
    done = succeed("convert", *USER, "--macs", "0.5", "--input-size", "3,16,16", "--out", "o",
                   "--json")  # fmt: skip
    assert done.document["plan"]["fit"] == "weight"
    assert "no --data: layers are fitted to their weights alone" in done.err


def test_convert_again_with_the_same_seed_gives_the_same_file(here, monkeypatch):
    written = []
    for cache in ("one", "another"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(here / cache))  # nothing is kept
        succeed("convert", *USER, "--data", "data", "--macs", "0.5", "--images", "24", "--seed",
                "3", "--force", "--out", "o")  # fmt: skip
        written.append(tree(here / "o"))
    assert written[0] == written[1]


def test_another_budget_looks_at_no_layer_again(here):
    first = succeed("convert", *USER, "--data", "data", "--macs", "0.5", "--out", "a")
    assert "kept from before" not in first.err
    for goal in (("--macs", "0.6"), ("--max-drop", "90", "--val", "data")):
        again = succeed("convert", *USER, "--data", "data", *goal, "--out", f"o{goal[1]}")
        assert "candidates kept from before" in again.err
    other = succeed(
        "convert", *USER, "--data", "data", "--macs", "0.5", "--seed", "1", "--out", "c"
    )
    assert "kept from before" not in other.err


def test_convert_of_an_artifact_adds_awrite_plan(here):
    done = succeed("convert", "art", "--model", "model.py:build", "--data", "data", "--macs", "0.9",
                   "--out", "o", "--json")  # fmt: skip
    record = json.loads(Path("o/convswap.json").read_text())["record"]
    assert len(record["plans"]) == 2
    assert record["plans"][1] == done.document["plan"]


def test_convert_of_a_timm_model_needs_no_code_afterwards(here):
    plan = write_plan("layer1.0.conv1", "spatial", 2)
    succeed("convert", "timm:resnet18", "--random-weights", "--model-arg", "channels=[8,8,16,16]",
            "--model-arg", "num_classes=4", "--input-size", "3,32,32", "--plan", plan,
            "--fit", "weight", "--out", "o")  # fmt: skip
    done = succeed("evaluate", "o", "--data", "data", "--json").document
    assert done["images"] == 40


def test_a_converted_network_remembers_how_images_are_read(here):
    succeed("convert", *USER, "--data", "data", "--macs", "0.5", "--mean", "0.1,0.2,0.3", "--std",
            "0.5", "--out", "o")  # fmt: skip
    preprocess = record_of(load("o", open_model("model.py:build"))).preprocess
    assert preprocess.input_size == (3, SIZE, SIZE)
    assert preprocess.mean == (0.1, 0.2, 0.3)
    assert preprocess.std == (0.5, 0.5, 0.5)


def test_a_network_that_fits_its_budget_already_is_not_written_again(shared):
    line = fail(*"convert model.py:build --data data --macs 1 --out o".split(), code=3)
    assert "converts nothing" in line


def test_convert_by_time_writes_an_artifact_that_knows_its_time(timed):
    made = succeed("convert", *WIDE, "--out", "o", "--json").document
    record = json.loads(Path("o/convswap.json").read_text())["record"]
    assert record["plans"] == [made["plan"]]
    assert made["plan"]["latency"]["ms"] < made["plan"]["latency"]["ms_dense"]


@pytest.mark.parametrize("given", ["--max-drop 1 --val data", "--plan plan.json"])
def test_time_and_another_goal_are_refused(given, shared):
    line = fail(*f"convert model.py:build --data data --latency 0.5 {given} --out o".split())
    assert "give one of" in line
    assert "--latency" in line


def test_convert_stays_within_a_drop(here):
    succeed("convert", "model.py:build", "--data", "data", "--max-drop", "100", "--val", "data",
            "--out", "o")  # fmt: skip
    assert names("o") == ["README.md", "convswap.json", "model.safetensors"]


def test_a_floor_on_quality_says_what_was_kept(here):
    done = succeed("convert", *USER, "--data", "data", "--input-size", "3,16,16",
                   "--max-drop", "90", "--val", "data", "--out", "floor")  # fmt: skip
    assert "quality " in done.out


@pytest.mark.parametrize("given", [
    "--max-drop 1", "--max-drop 1 --val data --macs 0.5", "--val data --macs 0.5",
])  # fmt: skip
def test_a_drop_needs_images_to_judge_by_and_no_budget(given, shared):
    line = fail(*f"convert model.py:build --data data {given} --out o".split())
    assert "--max-drop" in line


def test_what_the_network_puts_out_is_told_over_a_plan(here):
    done = succeed("convert", *USER, "--data", "data", "--plan", "plan.json", "--output", "values",
                   "--out", "o", "--json")  # fmt: skip
    assert done.document["plan"]["output"] == "values"


JUDGES = """
def constant(network):
    return 3

def count(network):
    return -sum(p.numel() for p in network.parameters())

def nothing(network):
    return float("nan")

def broken(network):
    raise RuntimeError("cannot judge")

def beside(network):
    from measures import three
    return three(network)
"""


@pytest.mark.parametrize("judge", ["constant", "beside"])
def test_a_function_of_the_users_own_judges(judge, here):
    Path("judges.py").write_text(JUDGES)
    Path("measures.py").write_text("def three(network):\n    return 3\n")
    done = succeed("convert", *USER, "--data", "data", "--input-size", "3,16,16",
                   "--max-drop", "0", "--judge", f"judges.py:{judge}", "--out", "o")  # fmt: skip
    assert f"quality 3.00 -> 3.00 on judges.py:{judge}" in done.out


@pytest.mark.parametrize(("judge", "words"), [
    ("judges.py:nothing", "returned nan"),
    ("judges.py:broken", "judges.py:broken failed: RuntimeError: cannot judge"),
    ("judges.py:missing", "has no 'missing'"),
    ("missing.py:constant", "no such file"),
    ("data", "takes file.py:function"),
    ("json:loads", "takes file.py:function"),
    ("judges.py:constant --val data", "one of --val and --judge"),
])  # fmt: skip
def test_a_judge_that_cannot_judge_is_one_line(judge, words, here):
    Path("judges.py").write_text(JUDGES)
    line = fail("convert", *USER, *"--data data --max-drop 1 --out o --judge".split(),
                *judge.split())  # fmt: skip
    assert words in line


@pytest.mark.parametrize(("options", "goal"), [
    ({"macs": 0.5}, Budget(macs=0.5)),
    ({"macs": 0.5, "latency": 1.0}, Budget(macs=0.5, latency=1.0)),
    ({"max_drop": 1.0, "val": "data"}, Drop(1.0, "data")),
    ({"max_drop": 1.0, "judge": "m.py:f"}, Drop(1.0, "m.py:f")),
])  # fmt: skip
def test_a_goal_is_one_value(options, goal):
    assert GoalOptions(**options).goal == goal


def test_a_plan_file_is_a_goal(shared):
    assert GoalOptions(plan=Path("plan.json")).goal == Plan.load("plan.json")


@pytest.mark.parametrize(("options", "planned", "fit"), [
    ({}, None, "weight"), ({"data": "photos"}, None, "corrected"),
    ({"data": "photos"}, "moments", "moments"), ({"data": "photos", "fit": "weight"}, "moments",
    "weight"), ({}, "weight", "weight"),
])  # fmt: skip
def test_layers_are_fitted_as_asked_or_planned_or_as_the_images_allow(
    options, planned, fit, shared
):
    goal = Plan.load("plan.json").model_copy(update={"fit": planned}) if planned else Budget()
    assert Fitting(**options).settled(goal) == fit


def test_a_recipe_repeats_a_command(here):
    Path("recipes").mkdir()
    done = succeed(
        "convert", *USER, "--data", "data", "--macs", "0.5", "--images", "24", "--seed", "3",
        "--exclude", "stem*", "--out", "o", "--save-config", "recipes/mine.yaml",
    )  # fmt: skip
    assert "wrote recipes/mine.yaml" in done.err
    assert "convswap run recipes/mine.yaml --model model.py:build" in done.err
    said = read_yaml(Path("recipes/mine.yaml").read_text(encoding="utf-8"))
    assert said == {
        "version": 1, "model": {"weights": "../weights.safetensors"},
        "data": {"calibration": "../data", "images": 24}, "budget": {"macs": 0.5},
        "layers": {"exclude": ["stem*"]}, "seed": 3,
    }  # fmt: skip
    succeed("run", "recipes/mine.yaml", "--model", "model.py:build", "--out", "again")
    assert (
        Path("again/converted/model.safetensors").read_bytes()
        == Path("o/model.safetensors").read_bytes()
    )


@pytest.mark.parametrize(("text", "wanted"), [
    ("target x cannot run y: /root/my/env/lib.py:3", "target x cannot run y: lib.py:3"),
    ("no file '/home/me/a.so', 1/2 of it", "no file 'a.so', 1/2 of it"),
    ("see https://example.org/a/b or /tmp", "see https://example.org/a/b or /tmp"),
])  # fmt: skip
def test_what_a_plan_says_of_a_target_names_no_folder(text, wanted):
    assert pathless(text) == wanted


def test_a_command_that_fails_leaves_no_recipe(shared):
    fail("convert", *USER, "--data", "nowhere", "--macs", "0.6", "--out", "o", "--save-config",
         "r.yaml")  # fmt: skip


@pytest.mark.parametrize(("model", "goal", "words"), [
    (USER, "--max-drop 5 --val data --data data", "a budget, not --plan or --max-drop"),
    (USER, "--plan plan.json --data data", "a budget, not --plan or --max-drop"),
    (USER, "--macs 0.5 --input-size 3,16,16", "needs --data"),
    (("art", "--model", "model.py:build"), "--macs 0.9 --data data", "starts from a folder"),
])  # fmt: skip
def test_what_no_recipe_can_say_is_refused_first(model, goal, words, shared):
    call = ("convert", *model, *goal.split(), "--out", "o", "--save-config", "r.yaml")
    assert words in fail(*call)


def test_batch_norms_are_folded_where_asked(here):
    job = ("convert", *USER, "--data", "data", "--images", "16", "--macs", "0.7", "--fold-norms")
    done = succeed(*job, "--out", "o", "--save-config", "r.yaml")
    assert "batch norms folded" in done.out
    small = load("o", open_model("model.py:build"))
    assert record_of(small).norms == {"norm": "stem"}
    assert "fold_norms: true" in Path("r.yaml").read_text()
    again = ("convert", "o", "--model", "model.py:build", *job[len(USER) + 1 :], "--out", "p")
    assert "no batch norm that could be folded" in fail(*again)


def test_a_plan_is_folded_by_where_asked(here):
    data = ("--data", "data", "--images", "16")
    succeed("plan", *USER, *data, "--macs", "0.7", "--fold-norms", "--out", "folds.json")
    succeed("plan", *USER, *data, "--macs", "0.7", "--out", "plain.json")
    for name, more in (("folds", ()), ("plain", ("--fold-norms",))):
        done = ("convert", *USER, *data, "--plan", f"{name}.json", *more, "--out", name)
        succeed(*done)
        assert record_of(load(name, open_model("model.py:build"))).norms == {"norm": "stem"}


def test_the_command_line_converts_in_two_processes_and_one_writes(nursery, here, port):
    words = ["convert", *USER, "--data", "data", "--macs", "0.5", "--out", "both"]
    runs = [
        nursery.start(
            "from convswap.cli import main\nmain()",
            *words,
            cwd=here,
            env=as_torchrun_tells(rank, port),
        )
        for rank in range(2)
    ]
    first, second = (run.finished() for run in runs)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "wrote both" in first.err
    assert (second.out, second.err) == ("", "")
    made = json.loads((here / "both" / "convswap.json").read_text())["provenance"]
    assert made["images"] == 34  # of 40, but for those that judge, and one that has no partner
