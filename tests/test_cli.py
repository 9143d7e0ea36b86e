"""The command line through its entry point: what it prints, writes, refuses, and leaves alone."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from outer import (
    CLASSES,
    SIZE,
    commands,
    converted,
    convswap,
    fail,
    names,
    squeezed,
    succeed,
    tree,
    truncate,
    write_artifact,
    write_images,
    write_tar,
    write_user_files,
)
from safetensors.torch import load_file, save_file
from torch import nn

from convswap import cli, load, open_model, record_of, save
from convswap.cli import opening
from convswap.network.memory import in_flight_bytes
from convswap.recipe import recipe
from convswap.record import Preprocess, remember

USER = ("model.py:build", "--weights", "weights.safetensors")
RECIPE = """# A tiny job.
version: 1
model: {weights: weights.safetensors}
data: {calibration: data, images: 24, batch_size: 8, input_size: [3, 16, 16]}
budget: {macs: 0.5}
distill: {epochs: 1, batch_size: 8}
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = write_user_files(tmp_path_factory.mktemp("user"))
    write_artifact(folder)
    write_images(folder / "flat", classes=(), each=4)
    write_images(folder / "gray", mode="L", each=2)
    write_tar(folder / "data.tar", folder / "data")
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("nothing to see")
    (folder / "tiny.yaml").write_text(RECIPE)
    plan = json.loads((folder / "art" / "convswap.json").read_text())["record"]["plans"][0]
    (folder / "plan.json").write_text(json.dumps(plan))
    for name, spoiled in {"few": 2, "many": 3}.items():  # of 40: at most 5 % may fail
        write_images(folder / name)
        for index in range(spoiled):
            truncate(folder / name / CLASSES[index] / "00.png")
    return folder


@pytest.fixture
def here(template, tmp_path, monkeypatch):
    """A user's folder of one's own, and the working directory."""
    folder = tmp_path / "here"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return folder


# --- help -----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [*commands()])
def test_help_of_every_command_says_what_it_does_and_shows_an_example(words):
    done = succeed(*words.split(), "--help")
    assert done.err == ""
    text = squeezed(done.out)
    assert f"Example: convswap {words}" in text.replace("`", "")
    about = commands()[words].help.strip().splitlines()[0]
    assert about.endswith(".")
    assert " ".join(about.split()).replace("`", "")[:40] in text


@pytest.mark.parametrize("words", [*commands()])
def test_every_example_is_a_command_line_that_parses(words):
    command = commands()[words]
    example = command.epilog.removeprefix("Example: ").strip("`")
    called, *arguments = shlex.split(example)
    assert called == "convswap"
    assert " ".join(arguments[: len(words.split())]) == words
    context = command.make_context(words, arguments[len(words.split()) :])
    assert set(context.params) == {parameter.name for parameter in command.params} - {"help"}


def test_no_arguments_is_answered_with_the_list_of_commands():
    done = convswap()
    assert all(f" {words.split()[0]} " in done.out + done.err for words in commands())


@pytest.mark.parametrize("arguments", ["nonsense", "convert", "inspect a b", "inspect a --nope 1",
                                       "distill art --data d --epochs 0 --out o",
                                       "evaluate art --data d --threads 0"])  # fmt: skip
def test_a_wrong_call_is_answered_with_usage(arguments, here):
    done = convswap(*arguments.split())
    assert done.code == 2
    assert "Usage: convswap" in done.err
    assert "Traceback" not in done.err


def test_the_console_script_is_installed():
    script = Path(sys.executable).with_name("convswap")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "convert" in done.stdout


def test_a_pipe_gets_one_json_document_and_nothing_else(here):
    script = Path(sys.executable).with_name("convswap")
    arguments = [script, "evaluate", *USER, "--data", "data", "--json"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 40
    assert "\x1b" not in done.stdout + done.stderr


# --- what the verbs do ----------------------------------------------------------------------


def test_inspect_lists_every_convolution(here):
    done = succeed("inspect", *USER, "--input-size", "3,16,16")
    assert "stem" in done.out
    assert "body" in done.out
    assert "2 of 2 convolutions can be replaced, 100.0%" in done.out


def test_inspect_gives_the_reason_for_a_layer_left_alone(here):
    succeed("convert", *USER, "--data", "data", "--plan", _plan("body", "bottleneck", 4),
            "--out", "o")  # fmt: skip
    sites = succeed("inspect", "o", "--model", "model.py:build", "--json").document["sites"]
    reasons = {site["path"]: site["reason"] for site in sites}
    assert "depthwise" in reasons["body.depthwise"]
    assert reasons["stem"] is None


def test_inspect_of_a_timm_model_by_name():
    done = succeed("inspect", "timm:resnet18", "--random-weights", "--model-arg", "num_classes=7",
                   "--model-arg", "channels=[8,8,16,16]", "--input-size", "3,32,32",
                   "--json")  # fmt: skip
    assert done.document["sites"][0]["path"] == "conv1"
    assert done.document["sites"][-1]["kernel"] == [16, 16, 3, 3]
    assert done.document["input_size"] == [3, 32, 32]


def test_inspect_of_a_one_channel_model_finds_its_input_size_by_itself():
    done = succeed("inspect", "timm:resnet18", "--random-weights", "--model-arg", "in_chans=1",
                   "--json")  # fmt: skip
    assert done.document["input_size"][0] == 1


def test_inspect_shows_no_option_that_it_does_not_have(here):
    done = succeed("inspect", *USER)
    known = {name for parameter in commands()["inspect"].params for name in parameter.opts}
    said = {word.strip(",.") for word in done.err.split() if word.startswith("--")}
    assert said <= known


def test_a_size_that_was_said_is_not_called_assumed(here):
    done = succeed("inspect", *USER, "--input-size", "3,16,16")
    assert "224" not in done.err


def test_plan_writes_what_convert_reads(here):
    done = succeed("plan", *USER, "--data", "data", "--macs", "0.5", "--out", "p.json", "--json")
    assert done.document == json.loads(Path("p.json").read_text())
    made = succeed("convert", *USER, "--data", "data", "--plan", "p.json", "--out", "o", "--json")
    assert made.document["plan"]["choices"] == done.document["choices"]
    assert made.document["macs"] == done.document["planned"]["macs"]
    assert made.document["macs"] <= 0.5 * done.document["dense"]["macs"]


def test_convert_by_a_budget_writes_an_artifact(here):
    done = succeed("convert", *USER, "--data", "data", "--params", "0.7", "--out", "o")
    assert "layers converted" in done.out or "layer converted" in done.out
    assert names("o") == ["convswap.json", "model.safetensors"]
    small = load("o", open_model("model.py:build"))
    counted = sum(p.numel() for p in small.parameters())
    assert counted <= 0.7 * sum(p.numel() for p in open_model("model.py:build").parameters())


def test_convert_without_images_fits_to_the_weights(here):
    done = succeed("convert", *USER, "--macs", "0.5", "--input-size", "3,16,16", "--out", "o",
                   "--json")  # fmt: skip
    assert done.document["plan"]["fit"] == "weight"


def test_convert_again_with_the_same_seed_gives_the_same_file(here):
    for out in ("a", "b"):
        succeed("convert", *USER, "--data", "data", "--macs", "0.5", "--images", "24", "--seed",
                "3", "--out", out)  # fmt: skip
    assert tree(here / "a") == tree(here / "b")


def test_convert_of_an_artifact_adds_a_plan(here):
    done = succeed("convert", "art", "--model", "model.py:build", "--data", "data", "--macs", "0.9",
                   "--out", "o", "--json")  # fmt: skip
    record = json.loads(Path("o/convswap.json").read_text())["record"]
    assert len(record["plans"]) == 2
    assert record["plans"][1] == done.document["plan"]


def test_convert_of_a_timm_model_needs_no_code_afterwards(here):
    plan = _plan("layer1.0.conv1", "spatial", 2)
    succeed("convert", "timm:resnet18", "--random-weights", "--model-arg", "channels=[8,8,16,16]",
            "--model-arg", "num_classes=4", "--input-size", "3,32,32", "--plan", plan,
            "--fit", "weight", "--out", "o")  # fmt: skip
    done = succeed("evaluate", "o", "--data", "data", "--json").document
    assert done["images"] == 40


def test_distill_writes_a_network_with_other_weights(here):
    succeed("distill", "art", "--model", "model.py:build", "--data", "flat", "--epochs", "1",
            "--out", "o")  # fmt: skip
    before, after = load_file("art/model.safetensors"), load_file("o/model.safetensors")
    assert before.keys() == after.keys()
    assert not torch.equal(before["body.expand.weight"], after["body.expand.weight"])
    assert names("o") == ["convswap.json", "model.safetensors"]
    assert "o.checkpoint.pt" not in names()


def test_an_artifact_of_the_library_is_run_at_the_size_it_was_planned_for(here):
    model = open_model("model.py:build", weights="weights.safetensors")
    save(converted(model, (3, 24, 24), body=("channel", 3)), "mine")
    for words in (
        "bench mine --seconds 0.1",
        "export mine --pt2 mine.pt2",
        "inspect mine",
        "evaluate mine --data data",
        "distill mine --data data --epochs 1 --out o",
    ):
        extra = ["--teacher-weights", "weights.safetensors"] if words[0] in "bd" else []
        done = succeed(*words.split(), "--model", "model.py:build", *extra)
        assert "assumed input size" not in done.err
    record = json.loads(Path("o/convswap.json").read_text())["record"]
    assert record["preprocess"]["input_size"] == [3, 24, 24]


def test_evaluate_says_so_if_there_are_fewer_folders_than_classes(here):
    shutil.rmtree("data/dog")
    done = succeed("evaluate", *USER, "--data", "data")
    assert "data has 3 classes, the network 4: taken for its first 3" in done.err


def test_distill_says_so_if_nothing_came_of_it(here):
    done = succeed("distill", "art", "--model", "model.py:build", "--data", "data", "--epochs", "1",
                   "--lr", "10", "--out", "o")  # fmt: skip
    assert "the network is kept as it was" in done.err
    before, after = load_file("art/model.safetensors"), load_file("o/model.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_distill_of_a_network_built_from_a_seed_finds_that_very_network(here):
    succeed("convert", "model.py:build", "--random-weights", "--seed", "3", "--data", "data",
            "--macs", "0.5", "--out", "o")  # fmt: skip
    dense = open_model("model.py:build", random_weights=True, seed=3)
    student = opening.open_network("o", architecture="model.py:build")
    teacher = opening.open_original(student, "model.py:build", None, None, "cpu")
    assert torch.equal(teacher.stem.weight, dense.stem.weight)


def test_evaluate_gives_accuracy_and_cost(here):
    done = succeed("evaluate", *USER, "--data", "data", "--json").document
    assert {"top1", "top5", "images", "macs", "params", "bytes", "skipped"} <= done.keys()
    assert done["images"] == 40
    assert done["skipped"] == 0
    assert done["top5"] == 100  # of four classes


def test_evaluate_reads_a_tar_as_it_reads_the_folder(here):
    folder = succeed("evaluate", *USER, "--data", "data", "--json").document
    assert succeed("evaluate", *USER, "--data", "data.tar", "--json").document == folder


def test_evaluate_counts_the_images_it_skipped(here):
    done = succeed("evaluate", *USER, "--data", "few", "--json").document
    assert done["skipped"] == 2
    assert done["images"] == 38


def test_evaluate_says_that_it_skipped_images(here):
    assert "skipped 2 unreadable images of few" in succeed("evaluate", *USER, "--data", "few").err


def test_evaluate_against_another_network_needs_no_labels(here):
    done = succeed("evaluate", "art", "--model", "model.py:build", "--data", "flat", "--against",
                   "model.py:build", "--weights", "weights.safetensors",
                   "--json").document  # fmt: skip
    assert done["kl"] >= 0
    assert done["r2"] < 1
    assert done["images"] == 4


def test_evaluate_against_the_same_network_is_still_json(here):
    done = succeed("evaluate", "model.py:build", "--data", "flat", "--against", "model.py:build",
                   "--json").document  # fmt: skip
    assert done["r2"] == 1
    assert done["agreement"] == 100


def test_export_writes_both_formats_and_says_how_close_they_are(here):
    done = succeed("export", "art", "--model", "model.py:build", "--onnx", "o.onnx", "--pt2",
                   "o.pt2", "--data", "data", "--json")  # fmt: skip
    assert set(done.document["max_abs_diff"]) == {"onnx", "pt2"}
    assert max(done.document["max_abs_diff"].values()) < 1e-4
    assert done.document["real_images"] is True
    assert {"o.onnx", "o.pt2"} <= set(names())


BENCH = ("bench", "art", "--model", "model.py:build", "--seconds", "0.01")


def test_bench_compares_with_the_original(here):
    found = succeed(*BENCH, "--json", "--threads", 1, "--batch", 2).document
    assert found["latency_ratio"] == pytest.approx(found["ms"] / found["ms_dense"])
    assert found["images_per_second"] == pytest.approx(2000 / found["ms"])
    assert min(found["spread"], found["spread_dense"]) >= 0
    assert found["bytes"] < found["bytes_dense"]
    assert (found["target"], found["threads"], found["batch"]) == ("eager", 1, 2)
    assert found["torch"] == torch.__version__
    assert "layers" not in found


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_bench_runs_on_other_targets(target, here):
    pytest.importorskip(target, reason=f"{target} is not installed")
    found = succeed(*BENCH, "--target", target, "--json").document
    assert found["target"] == target
    assert found["latency_ratio"] > 0


def test_bench_of_layers_gives_each_of_them(here, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    done = succeed(*BENCH, "--layers", "--json")
    (layer,) = done.document["layers"]
    assert (layer["site"], layer["form"], layer["rank"]) == ("body", "channel", 3)
    assert layer["macs_kept"] == pytest.approx((8 * 9 * 3 + 3 * 8) / (8 * 8 * 9))
    assert min(layer["ms"], layer["ms_dense"]) > 0
    assert layer["ms_planned"] is None
    assert "latency: 1 of 1 done" in done.err
    again = succeed(*BENCH, "--layers", "--json")
    assert again.document["layers"] == [layer]
    assert "latency" not in again.err


def test_bench_of_layers_prints_a_table(here, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    lines = succeed(*BENCH, "--layers", "--quiet").out.splitlines()
    assert lines[0].split()[:4] == ["layer", "form", "rank", "MACs"]
    assert lines[1].split()[:4] == ["body", "channel", "3", "42%"]


@pytest.mark.parametrize("more", [(), ("--layers",)])
def test_bench_draws(more, here, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    succeed(*BENCH, *more, "--picture", "times.png")
    assert Path("times.png").read_bytes().startswith(b"\x89PNG")
    assert "times.png exists" in fail(*BENCH, "--picture", "times.png")


def test_what_bench_cannot_draw_or_measure_is_refused_at_once(here):
    assert "times.txt is not the name of a picture" in fail(*BENCH, "--picture", "times.txt")
    assert convswap(*BENCH, "--seconds", "-1").code == 2


def test_bench_prints_a_table(here):
    done = succeed("bench", "art", "--model", "model.py:build", "--seconds", "0.01", "--threads", 1)
    assert "dense" in done.out
    assert "art" in done.out


def test_bench_of_a_network_against_itself_is_about_one(here):
    done = succeed("bench", "art", "--model", "model.py:build", "--against", "art", "--seconds",
                   "0.01", "--json")  # fmt: skip
    assert done.document["ms"] > 0


def test_run_does_the_whole_job(here):
    done = succeed("run", "tiny.yaml", "--model", "model.py:build", "--out", "o", "--json")
    assert list(done.document) == ["dense", "converted", "recovered"]
    assert done.document == json.loads(Path("o/report.json").read_text())
    assert names("o") == ["converted", "plan.json", "recovered", "report.json"]
    for name in ("converted", "recovered"):
        small = load(f"o/{name}", open_model("model.py:build"))
        assert small(torch.zeros(1, 3, SIZE, SIZE)).shape == (1, 4)


def test_recipes_list_names_every_recipe():
    out = succeed("recipes", "list").out
    assert "digits" in out
    assert all(len(line.split()) > 3 for line in out.splitlines())


def test_recipes_show_prints_the_file_to_the_letter():
    shown = succeed("recipes", "show", "digits").out
    assert shown.strip() == recipe.find("digits").read_text().strip()


def test_recipes_copy_then_check(here):
    succeed("recipes", "copy", "digits", "mine.yaml")
    assert "valid" in succeed("recipes", "check", "mine.yaml").out


def test_threads_are_set(here):
    before = torch.get_num_threads()
    try:
        succeed("evaluate", *USER, "--data", "data", "--threads", "1")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("arguments", [
    "inspect model.py:build --json",
    "plan model.py:build --input-size 3,16,16 --macs 0.5 --out new.json --json",
    "evaluate model.py:build --data data --json",
    "export art --model model.py:build --pt2 new.pt2 --json",
])  # fmt: skip
def test_json_is_the_only_thing_on_stdout(arguments, here):
    done = succeed(*arguments.split())
    assert isinstance(done.document, dict)
    assert done.out.endswith("\n")


@pytest.mark.parametrize("arguments", [
    "evaluate model.py:build --data data --input-size 3,16,16 --mean 0.5 --std 0.5",
    "convert model.py:build --data data --input-size 3,16,16 --macs 0.5 --out o",
])  # fmt: skip
def test_a_pipe_gets_no_empty_lines_from_the_progress_bar(arguments, here):
    assert "" not in succeed(*arguments.split()).err.splitlines()


# --- budgets of time ------------------------------------------------------------------------

WIDE = ("model.py:build", "--model-arg", "width=128", "--input-size", "3,32,32", "--fit", "weight",
        "--threads", 1, "--latency", "0.8", "--target", "eager")  # fmt: skip


@pytest.fixture(scope="module")
def user_cache(tmp_path_factory):
    """Layer times are measured once for all the tests that ask for them."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def timed(here, user_cache, monkeypatch):
    """A user's folder, and what a plan by time needs: its body is a large layer, which has many
    replacements several times as fast."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(user_cache))
    before = torch.get_num_threads()
    yield here
    torch.set_num_threads(before)


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


def test_convert_by_time_writes_an_artifact_that_knows_its_time(timed):
    made = succeed("convert", *WIDE, "--out", "o", "--json").document
    record = json.loads(Path("o/convswap.json").read_text())["record"]
    assert record["plans"] == [made["plan"]]
    assert made["plan"]["latency"]["ms"] < made["plan"]["latency"]["ms_dense"]


def test_plan_by_time_prints_what_was_measured(timed):
    done = succeed("plan", *WIDE, "--out", "p.json", "--quiet")
    assert "ms before" in done.out
    assert "threads 1, batch 1" in squeezed(done.out)


@pytest.mark.parametrize("verb", ["plan", "convert"])
def test_help_names_the_options_of_time(verb):
    text = squeezed(succeed(verb, "--help").out)
    for option in ("--latency", "--target", "--batch", "--dtype"):
        assert option in text
    assert "eager, compile, onnxruntime, openvino" in text


@pytest.mark.parametrize("verb", ["plan", "convert"])
@pytest.mark.parametrize(("given", "words"), [
    ("--latency 0", ["budget", "latency"]),
    ("--latency 1.5", ["budget", "latency"]),
    ("--latency nan", ["budget", "latency"]),
    ("--latency 0.5 --target tensorflow", ["tensorflow", "openvino"]),
    ("--latency 0.5 --target onnxruntime --dtype float16", ["onnxruntime", "float16"]),
    ("--latency 0.5 --dtype half-ish", ["half-ish"]),
    ("--latency 0.5 --dtype int8", ["int8"]),
    ("--latency 0.5 --device nonsense", ["device", "nonsense"]),
])  # fmt: skip
def test_a_wrong_budget_of_time_is_one_line(verb, given, words, here):
    before = tree(here)
    line = fail(verb, "model.py:build", "--input-size", "3,16,16", "--out", "o", *given.split())
    assert [word for word in words if word not in line] == [], line
    assert tree(here) == before


def test_batches_of_no_images_are_answered_with_usage(here):
    done = convswap("plan", "model.py:build", "--latency", "0.5", "--batch", "0", "--out", "o")
    assert done.code == 2
    assert "--batch" in done.err


def test_no_budget_is_answered_with_time_as_well(here):
    assert "--latency" in fail("plan", "model.py:build", "--data", "data", "--out", "o")


@pytest.mark.parametrize("given", ["--max-drop 1 --val data", "--plan plan.json"])
def test_time_and_another_goal_are_refused(given, here):
    line = fail(*f"convert model.py:build --data data --latency 0.5 {given} --out o".split())
    assert "give one of" in line
    assert "--latency" in line


def test_a_time_out_of_reach_is_answered_with_the_least(timed):
    before = tree(timed)
    wide = list(WIDE)
    wide[wide.index("0.8")] = "0.001"
    line = fail("plan", *wide, "--out", "p.json", code=1)
    assert "latency 0.001 asked" in line
    assert "is the least" in line
    assert tree(timed) == before


def test_a_recipe_with_a_target_is_run(timed):
    _text("r.yaml", RECIPE.replace("images: 24", "images: 16").replace("3, 16, 16", "3, 32, 32")
          .replace("{macs: 0.5}", "{latency: 0.8}").replace("weights: weights.safetensors",
          "kwargs: {width: 128}").replace("distill: {epochs: 1, batch_size: 8}",
          "target: {name: eager, threads: 1, batch: 1}\nfit: weight"))  # fmt: skip
    succeed("run", "r.yaml", "--model", "model.py:build", "--out", "o")
    made = json.loads(Path("o/plan.json").read_text())
    assert made["latency"]["target"] == "eager"
    assert made["latency"]["ms"] < made["latency"]["ms_dense"]


# --- the frontier ---------------------------------------------------------------------------


def test_sweep_writes_the_frontier_and_says_where_the_knee_is(here):
    done = succeed("sweep", "model.py:build", "--data", "data", "--val", "data", "--points", "2",
                   "--least", "0.5", "--out", "frontier")  # fmt: skip
    assert "dense" in done.out
    assert "knee:" in done.out
    assert names("frontier") == ["frontier.json", "frontier.png"]


def test_convert_stays_within_a_drop(here):
    succeed("convert", "model.py:build", "--data", "data", "--max-drop", "100", "--val", "data",
            "--out", "o")  # fmt: skip
    assert names("o") == ["convswap.json", "model.safetensors"]


@pytest.mark.parametrize("given", [
    "--max-drop 1", "--max-drop 1 --val data --macs 0.5", "--val data --macs 0.5",
])  # fmt: skip
def test_a_drop_needs_images_to_judge_by_and_no_budget(given, here):
    before = tree(here)
    line = fail(*f"convert model.py:build --data data {given} --out o".split())
    assert "--max-drop" in line
    assert tree(here) == before


# --- what exists stays ----------------------------------------------------------------------

WRITERS = {
    "plan": "plan model.py:build --data data --macs 0.5 --out taken",
    "convert": "convert model.py:build --data data --macs 0.5 --out taken",
    "distill": "distill art --model model.py:build --data data --epochs 1 --out taken",
    "export onnx": "export art --model model.py:build --onnx taken",
    "export pt2": "export art --model model.py:build --pt2 taken",
    "run": "run tiny.yaml --model model.py:build --out taken",
    "recipes copy": "recipes copy digits taken",
}


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("command", WRITERS.values(), ids=WRITERS.keys())
def test_an_output_that_exists_is_refused_and_untouched(command, kind, here):
    if kind == "file":
        Path("taken").write_text("precious")
    else:
        Path("taken").mkdir()
        Path("taken/file").write_text("precious")
    before = tree(here)
    assert fail(*command.split()) == ("error: taken exists - choose another name, or pass --force")
    assert tree(here) == before


@pytest.mark.parametrize("command", WRITERS.values(), ids=WRITERS.keys())
def test_an_output_in_a_folder_that_does_not_exist_is_refused(command, here):
    before = tree(here)
    assert "does not exist" in fail(*command.replace("taken", "no/such/folder").split())
    assert tree(here) == before


@pytest.mark.parametrize("name", ["plan", "export pt2", "recipes copy"])
def test_force_replaces_a_file(name, here):
    Path("taken").write_text("old")
    succeed(*WRITERS[name].split(), "--force")
    assert Path("taken").read_bytes() != b"old"


@pytest.mark.parametrize("name", ["convert", "distill"])
def test_force_replaces_an_artifact(name, here):
    shutil.copytree("art", "taken")
    before = tree(Path("taken"))
    succeed(*WRITERS[name].split(), "--force")
    assert tree(Path("taken")) != before


@pytest.mark.parametrize("name", ["convert", "distill"])
def test_force_does_not_replace_a_folder_of_something_else(name, here):
    Path("taken").mkdir()
    Path("taken/file").write_text("precious")
    assert "holds something else" in fail(*WRITERS[name].split(), "--force")
    assert Path("taken/file").read_text() == "precious"


@pytest.mark.parametrize("name", ["plan", "export onnx", "export pt2", "recipes copy"])
def test_force_does_not_turn_a_folder_into_a_file(name, here):
    Path("taken").mkdir()
    before = tree(here)
    assert "taken" in fail(*WRITERS[name].split(), "--force")
    assert tree(here) == before


def test_force_does_not_turn_a_file_into_the_folder_of_a_run(here):
    Path("taken").write_text("old")
    before = tree(here)
    assert "taken" in fail(*WRITERS["run"].split(), "--force")
    assert tree(here) == before


def test_force_does_not_replace_the_working_directory(here):
    before = tree(here)
    assert fail("convert", *USER, "--data", "data", "--macs", "0.5", "--out", ".", "--force")
    assert tree(here) == before


# --- bad input ------------------------------------------------------------------------------


def _plan(site: str, form: str, rank: int) -> str:
    """Write a plan with one choice; its file."""
    plan = json.loads(Path("plan.json").read_text())
    plan["choices"] = [{"site": site, "form": form, "rank": rank}]
    Path("written.json").write_text(json.dumps(plan))
    return "written.json"


def _weights(name: str, **changes: torch.Tensor | None) -> None:
    state = load_file("weights.safetensors") | changes
    save_file({key: value for key, value in state.items() if value is not None}, name)


def _text(name: str, text: str) -> None:
    Path(name).write_text(text)


def _cut(name: str, source: str) -> None:
    shutil.copy(source, name)
    truncate(Path(name))


BAD = {
    # what is wrong: (prepare, command, words of the answer)
    "unknown timm model": (
        None, "inspect timm:resnet81 --random-weights", ["timm:resnet81", "resnet18"]),
    "unknown torchvision model": (
        None, "inspect torchvision:resnet81 --random-weights", ["resnet81", "resnet18"]),
    "a model without a source": (
        None, "inspect resnet18", ["resnet18", "timm:NAME"]),
    "a misspelt argument of a model": (
        None, "inspect timm:resnet18 --random-weights --model-arg num_clases=3", ["num_clases"]),
    "a model argument without a value": (
        None, "inspect model.py:build --model-arg width", ["KEY=VALUE", "width"]),
    "a model argument that is no value": (
        None, "inspect model.py:build --model-arg width=[1", ["width=[1"]),
    "no such file of code": (
        None, "inspect nowhere.py:build", ["nowhere.py"]),
    "no such factory": (
        None, "inspect model.py:biuld", ["model.py", "biuld"]),
    "no factory named": (
        None, "inspect model.py", ["file.py:factory"]),
    "a factory that fails": (
        None, "inspect model.py:broken", ["RuntimeError: the user's own mistake"]),
    "a factory of something else": (
        None, "inspect model.py:number", ["int", "torch.nn.Module"]),
    "code with a syntax error": (
        lambda: _text("wrong.py", "def build(:"), "inspect wrong.py:build",
        ["wrong.py", "SyntaxError"]),
    "no weights file": (
        None, "inspect model.py:build --weights none.safetensors", ["none.safetensors"]),
    "weights of another network": (
        lambda: _weights("w.safetensors", extra=torch.zeros(1), **{"head.bias": None}),
        "inspect model.py:build --weights w.safetensors", ["head.bias", "extra", "w.safetensors"]),
    "weights of another shape": (
        None, "inspect model.py:build --weights weights.safetensors --model-arg width=9",
        ["another shape", "body.bias", "weights.safetensors"]),
    "NaN weights": (
        lambda: _weights("w.safetensors", **{"stem.bias": torch.full((8,), float("nan"))}),
        "convert model.py:build --weights w.safetensors --data data --macs 0.5 --out o",
        ["NaN", "stem.bias"]),
    "infinite weights": (
        lambda: _weights("w.safetensors", **{"norm.running_var": torch.full((8,), torch.inf)}),
        "evaluate model.py:build --weights w.safetensors --data data", ["norm.running_var"]),
    "a truncated weights file": (
        lambda: _cut("w.safetensors", "weights.safetensors"),
        "inspect model.py:build --weights w.safetensors", ["w.safetensors"]),
    "a weights file that is something else": (
        lambda: _text("w.safetensors", "hello"), "inspect model.py:build --weights w.safetensors",
        ["w.safetensors"]),
    "a checkpoint that is something else": (
        lambda: _text("w.pt", "hello"), "inspect model.py:build --weights w.pt",
        ["w.pt", "safetensors"]),
    "a checkpoint that holds code": (
        lambda: torch.save(torch.nn.Linear(1, 1), "w.pt"),
        "inspect model.py:build --weights w.pt", ["w.pt", "state_dict"]),
    "a folder that is no artifact": (
        None, "evaluate empty --data data", ["empty"]),
    "no such images": (
        None, "evaluate model.py:build --data nowhere", ["nowhere"]),
    "a folder without images": (
        None, "evaluate model.py:build --data empty", ["no images in empty"]),
    "a file that is no source": (
        None, "evaluate model.py:build --data notes.txt", ["notes.txt", ".tar"]),
    "a truncated tar": (
        lambda: _text("t.tar", "not a tar"), "evaluate model.py:build --data t.tar", ["t.tar"]),
    "a tar without images": (
        lambda: write_tar(Path("t.tar"), Path("empty")), "evaluate model.py:build --data t.tar",
        ["no images in t.tar"]),
    "too many unreadable images": (
        None, "evaluate model.py:build --data many", ["3 of 40 images cannot be read", "many"]),
    "too many unreadable images to calibrate on": (
        None, "convert model.py:build --data many --macs 0.5 --out o", ["3 of 40 images"]),
    "too many unreadable images to train on": (
        None, "distill art --model model.py:build --data many --epochs 1 --out o",
        ["of 35 images"]),
    "unlabelled images to judge by labels": (
        None, "evaluate model.py:build --data flat", ["flat has no labels", "--against"]),
    "a network of two channels": (
        None, "evaluate model.py:build --model-arg channels=2 --data data",
        ["2 channels", "1 or 3"]),
    "an input size of other channels": (
        None, "evaluate model.py:build --data data --input-size 1,16,16",
        ["1 channel", "takes 3"]),
    "gray digits for a network that wants colour": (
        None, "evaluate art --model model.py:build --data digits", ["digits", "3"]),
    "an input size of two numbers": (
        None, "inspect model.py:build --input-size 16,16", ["input size", "16,16"]),
    "an input size of words": (
        None, "inspect model.py:build --input-size a,b,c", ["input size", "a,b,c"]),
    "an input size of nothing": (
        None, "inspect model.py:build --input-size 3,0,16", ["input"]),
    "an endless input size": (
        None, "inspect model.py:build --input-size 3,inf,16", ["input"]),
    "a huge input size": (
        None, "inspect model.py:build --input-size 3,1e9,16", ["input"]),
    "a mean of two numbers": (
        None, "evaluate model.py:build --data data --mean 0.5,0.5", ["mean", "0.5,0.5"]),
    "a deviation of zero": (
        None, "evaluate model.py:build --data data --std 0", ["std"]),
    "no budget": (
        None, "plan model.py:build --data data --out o", ["no budget", "--macs"]),
    "a budget of nothing": (
        None, "convert model.py:build --data data --macs 0 --out o", ["budget", "macs"]),
    "a budget above all": (
        None, "convert model.py:build --data data --macs 1.5 --out o", ["budget", "macs"]),
    "a budget that is no number": (
        None, "plan model.py:build --data data --params nan --out o", ["budget", "params"]),
    "a budget and a plan": (
        None, "convert model.py:build --data data --macs 0.5 --plan plan.json --out o",
        ["--plan", "give one of"]),
    "a budget of nothing and a plan": (
        None, "convert model.py:build --data data --macs 0 --plan plan.json --out o", ["budget"]),
    "an unknown fit": (
        None, "convert model.py:build --data data --macs 0.5 --fit magic --out o",
        ["magic", "weight", "moments", "corrected"]),
    "moments without images": (
        None, "convert model.py:build --macs 0.5 --fit moments --out o",
        ["--fit moments needs images", "--data"]),
    "no such plan": (
        None, "convert model.py:build --data data --plan none.json --out o", ["none.json"]),
    "a plan that is no JSON": (
        lambda: _text("p.json", "{not json"),
        "convert model.py:build --data data --plan p.json --out o", ["p.json", "json"]),
    "a plan with unknown entries": (
        lambda: _text("p.json", json.dumps({"version": 1, "choises": []})),
        "convert model.py:build --data data --plan p.json --out o", ["choises", "choices"]),
    "a plan for another network": (
        lambda: _plan("nowhere", "channel", 1),
        "convert model.py:build --data data --plan written.json --out o", ["nowhere", "inspect"]),
    "a plan with an unknown form": (
        lambda: _plan("body", "magic", 1),
        "convert model.py:build --data data --plan written.json --out o", ["magic", "separable"]),
    "a plan with a rank too large": (
        lambda: _plan("body", "channel", 999),
        "convert model.py:build --data data --plan written.json --out o", ["999", "channel"]),
    "an artifact of the user's code alone": (
        None, "evaluate art --data data", ["art", "--model file.py:factory"]),
    "an artifact with another architecture": (
        None, "evaluate art --model model.py:painter --data data", ["art"]),
    "weights for an artifact": (
        None, "inspect art --model model.py:build --weights weights.safetensors",
        ["its own weights"]),
    "an unknown device": (
        None, "evaluate model.py:build --data data --device nonsense", ["device", "nonsense"]),
    "a device without data": (
        None, "evaluate model.py:build --data data --device meta", ["device", "meta"]),
    "an unknown target": (
        None, "bench art --model model.py:build --target tensorflow", ["tensorflow", "openvino"]),
    "a type that a target does not have": (
        None, "bench art --model model.py:build --target onnxruntime --dtype float16",
        ["onnxruntime", "float16"]),
    "to time in something that is no type": (
        None, "bench art --model model.py:build --dtype half-ish", ["half-ish"]),
    "to time something that is no artifact": (
        None, "bench model.py:build", ["model.py:build"]),
    "to time layers against another network": (
        None, "bench art --model model.py:build --layers --against art", ["--against"]),
    "a picture in a folder that is not there": (
        None, "bench art --model model.py:build --picture nowhere/p.png", ["nowhere"]),
    "to time on an unknown device": (
        None, "bench art --model model.py:build --device nonsense", ["device", "nonsense"]),
    "nothing to export": (
        None, "export art --model model.py:build", ["--onnx"]),
    "to export something that is no artifact": (
        None, "export model.py:build --onnx o.onnx", ["model.py:build"]),
    "to distil something that is no artifact": (
        None, "distill model.py:build --data data --epochs 1 --out o", ["model.py:build"]),
    "an unknown recipe": (
        None, "run nothing", ["nothing", "digits", "recipes list"]),
    "a recipe without a model": (
        None, "run tiny.yaml", ["--model"]),
    "a recipe that is a list": (
        lambda: _text("r.yaml", "- a"), "run r.yaml --model model.py:build", ["r.yaml"]),
    "a recipe that is no YAML": (
        lambda: _text("r.yaml", "a: [1"), "recipes check r.yaml", ["r.yaml"]),
    "a recipe with images that are not there": (
        None, "run tiny.yaml --model model.py:build --out o --set data.calibration=nowhere",
        ["nowhere"]),
    "an override without a value": (
        None, "recipes check digits --set seed", ["seed", "section.key=value"]),
    "an override that is no YAML": (
        None, "recipes check digits --set budget.macs=[1", ["budget.macs=[1"]),
    "an override of an unknown key": (
        None, "recipes check digits --set budget.mac=0.3", ["budget.mac", "macs"]),
    "a file in place of a parent folder": (
        None, "convert model.py:build --data data --macs 0.5 --out notes.txt/o", ["notes.txt"]),
}  # fmt: skip


@pytest.mark.parametrize(("prepare", "command", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_that_says_why_and_leaves_nothing(prepare, command, words, here):
    if prepare:
        prepare()
    before = tree(here)
    line = fail(*command.split())
    assert [word for word in words if word not in line] == [], line
    assert "\x1b" not in line
    assert tree(here) == before


@pytest.mark.parametrize("command", [
    "convert model.py:build --data data --macs 0.01 --out o",
    "plan model.py:build --data data --macs 0.01 --out o",
    "run tiny.yaml --model model.py:build --out o --set budget.macs=0.01",
])  # fmt: skip
def test_a_budget_out_of_reach_is_answered_with_the_least_reachable(command, here):
    before = tree(here)
    line = fail(*command.split(), code=1)
    assert "macs 0.01 asked" in line
    assert "least" in line
    assert tree(here) == before


def test_the_least_reachable_budget_is_reachable(here):
    line = fail(*"plan model.py:build --data data --macs 0.01 --out o".split(), code=1)
    least = line.split("asked, ")[1].split()[0]
    succeed("plan", "model.py:build", "--data", "data", "--macs", least, "--out", "o")


def test_a_network_that_fits_its_budget_already_is_not_written_again(here):
    before = tree(here)
    line = fail(*"convert model.py:build --data data --macs 1 --out o".split(), code=3)
    assert "converts nothing" in line
    assert tree(here) == before


def test_all_problems_of_a_recipe_come_together_with_the_nearest_keys(here):
    _text("r.yaml", RECIPE.replace("calibration", "calibratoin").replace("epochs", "epoch")
          .replace("macs: 0.5", "macs: 7").replace("version: 1", "version: 2"))  # fmt: skip
    line = fail("recipes", "check", "r.yaml")
    for words in ("data.calibratoin (did you mean calibration?)", "budget.macs", "version",
                  "distill.epoch (did you mean epochs?)", "r.yaml"):  # fmt: skip
        assert words in line


def test_pretrained_weights_that_cannot_be_fetched_are_explained(monkeypatch):
    import timm

    def offline(name, pretrained, **kwargs):
        raise OSError("no network\nand a second line")

    monkeypatch.setattr(timm, "create_model", offline)
    line = fail("plan", "timm:resnet18", "--macs", "0.5", "--out", "plan.json")
    assert "no network" in line
    assert "--random-weights" in line


def test_a_colour_network_reads_gray_images(here):
    assert succeed("evaluate", *USER, "--data", "gray", "--json").document["images"] == 8


def test_a_gray_network_reads_colour_images(here):
    done = succeed("evaluate", "model.py:build", "--model-arg", "channels=1", "--data", "data",
                   "--json")  # fmt: skip
    assert done.document["images"] == 40


def test_a_gray_timm_network_reads_colour_images(here):
    done = succeed("evaluate", "timm:resnet18", "--random-weights", "--model-arg", "in_chans=1",
                   "--model-arg", "channels=[8,8,16,16]", "--model-arg", "num_classes=4",
                   "--input-size", "1,32,32", "--data", "data", "--json")  # fmt: skip
    assert done.document["images"] == 40


def test_an_unexpected_error_is_not_hidden(here, monkeypatch):
    def fall_over(*args, **kwargs):
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr("convswap.cli.inspect.observe", fall_over)
    with pytest.raises(ZeroDivisionError):
        convswap("inspect", "model.py:build")


def test_a_converted_network_remembers_how_images_are_read(here):
    succeed("convert", *USER, "--data", "data", "--macs", "0.5", "--mean", "0.1,0.2,0.3", "--std",
            "0.5", "--out", "o")  # fmt: skip
    preprocess = record_of(load("o", open_model("model.py:build"))).preprocess
    assert preprocess.input_size == (3, SIZE, SIZE)
    assert preprocess.mean == (0.1, 0.2, 0.3)
    assert preprocess.std == (0.5, 0.5, 0.5)


def test_the_command_table_is_the_one_promised():
    assert set(commands()) >= {
        "inspect", "plan", "convert", "distill", "evaluate", "bench", "export", "run",
        "recipes list", "recipes show", "recipes copy", "recipes check",
    }  # fmt: skip
    assert cli.app.info.name == "convswap"


# --- memory ---------------------------------------------------------------------------------


def test_fewer_images_than_would_not_fit_are_used_and_that_is_said(here):
    done = succeed("plan", *USER, "--data", "data", "--input-size", "3,96,96", "--memory", "0.01",
                   "--macs", "0.8", "--out", "small.json")  # fmt: skip
    assert "images in place of 40" in done.err


def test_memory_for_not_even_one_image_is_refused(here):
    line = fail("plan", *USER, "--data", "data", "--input-size", "3,1024,1024", "--memory", "0.01",
                "--macs", "0.8", "--out", "small.json")  # fmt: skip
    assert "--memory 0.01 is too little" in line
    assert not Path("small.json").exists()


def test_options_of_a_target_are_for_budgets_of_time(here):
    for words in (["--target", "openvino"], ["--dtype", "float16"], ["--batch", "8"]):
        line = fail("plan", *USER, "--macs", "0.5", *words, "--out", "never.json")
        assert "go with --latency" in line
    assert not Path("never.json").exists()


def test_a_floor_on_quality_says_what_was_kept(here):
    done = succeed("convert", *USER, "--data", "data", "--input-size", "3,16,16",
                   "--max-drop", "90", "--val", "data", "--out", "floor")  # fmt: skip
    assert "quality " in done.out


def test_where_free_memory_is_not_known_all_images_are_taken(monkeypatch):
    monkeypatch.setattr(opening, "free_bytes", lambda device: None)
    model = remember(nn.Conv2d(3, 3, 1), preprocess=Preprocess(input_size=(3, 8, 8)))
    assert opening.within_memory(model, 1000) == 1000


def test_half_of_what_is_free_bounds_the_images(monkeypatch, capsys):
    model = remember(nn.Conv2d(3, 3, 1), preprocess=Preprocess(input_size=(3, 8, 8)))
    each = 2 * in_flight_bytes(model, (3, 8, 8))
    monkeypatch.setattr(opening, "free_bytes", lambda device: 20 * each)
    assert opening.within_memory(model, 1000) == 10
    assert "10 images in place of 1000" in capsys.readouterr().err


@pytest.mark.parametrize(("target", "device"), [
    ("eager", "cuda"), ("compile", "cuda"), ("onnxruntime", "cpu"), ("openvino", "cpu"),
])  # fmt: skip
def test_what_is_fitted_on_a_gpu_is_timed_where_the_target_runs(target, device):
    assert opening.device_for(target, "cuda") == device
