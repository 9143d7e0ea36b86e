"""Bad input is one line that says why, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from outer import fail, tree, truncate, write_plan, write_tar
from safetensors.torch import load_file, save_file


def _weights(name: str, **changes: torch.Tensor | None) -> None:
    state = load_file("weights.safetensors") | changes
    save_file({key: value for key, value in state.items() if value is not None}, name)


def _cut(name: str, source: str) -> None:
    shutil.copy(source, name)
    truncate(Path(name))


def _text(name: str, text: str) -> None:
    Path(name).write_text(text)


def _itself() -> None:
    content: dict = {}
    content["model"] = content
    torch.save(content, "w.pt")


def _plan(place: tuple[str, ...], value: str) -> None:
    plan = json.loads(Path("plan.json").read_text())
    plan["latency"] = {"target": "eager", "threads": 1, "device": "cpu", "dtype": "float32",
                       "batch": 1, "ms_dense": 1, "ms": 0.5, "ms_predicted": 0.5}  # fmt: skip
    *sections, last = place
    part = plan
    for section in sections:
        part = part[section][0] if section == "choices" else part[section]
    part[last] = "HERE"
    Path("p.json").write_text(json.dumps(plan).replace('"HERE"', value))


BAD = {
    # what is wrong: (prepare, command, words of the answer)
    "unknown timm model": (
        None, "inspect timm:resnet81 --random-weights", ["timm:resnet81", "resnet18"]),
    "unknown torchvision model": (
        None, "inspect torchvision:resnet81 --random-weights", ["resnet81", "resnet18"]),
    "a model without a source": (
        None, "inspect resnet18", ["resnet18", "timm:resnet18"]),
    "a library nearly spelled": (
        None, "inspect torchvison:resnet18", ["did you mean torchvision:resnet18?"]),
    "a library in capitals": (
        None, "inspect TIMM:resnet18", ["did you mean timm:resnet18?"]),
    "timm's name on the hub": (
        None, "inspect timm/resnet18.a1_in1k", ["did you mean timm:resnet18.a1_in1k?"]),
    "a name of timm's without timm": (
        None, "inspect hf-hub:timm/resnet18", ["did you mean timm:hf-hub:timm/resnet18?"]),
    "a package that is not there": (
        None, "inspect nowhere.at:build", ["unknown model 'nowhere.at:build'", "timm:NAME"]),
    "weights in place of a model": (
        None, "inspect weights.safetensors", ["name the network", "--weights weights.safetensors"]),
    "a misspelt argument of a model": (
        None, "inspect timm:resnet18 --random-weights --model-arg num_clases=3", ["num_clases"]),
    "a model argument without a value": (
        None, "inspect model.py:build --model-arg width", ["KEY=VALUE", "width"]),
    "a model argument as large as can be": (
        None, f"inspect model.py:build --model-arg width=1{':30' * 300}.5", ["YAML"]),
    "a model argument that is no value": (
        None, "inspect model.py:build --model-arg width=[1", ["width=[1"]),
    "no such file of code": (
        None, "inspect nowhere.py:build", ["nowhere.py"]),
    "no such factory": (
        None, "inspect model.py:biuld", ["model.py", "biuld"]),
    "no factory named": (
        None, "inspect model.py", ["model.py:FACTORY"]),
    "a factory that fails": (
        None, "inspect model.py:broken", ["RuntimeError: the user's own mistake"]),
    "a factory of something else": (
        None, "inspect model.py:number", ["int", "torch.nn.Module"]),
    "code with a syntax error": (
        lambda: Path("wrong.py").write_text("def build(:"), "inspect wrong.py:build",
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
        ["w.pt is text (hello), not a checkpoint"]),
    "another network, saved whole": (
        lambda: torch.save(torch.nn.Linear(1, 1), "w.pt"),
        "inspect model.py:build --weights w.pt", ["w.pt", "weights do not fit Small"]),
    "a checkpoint that holds itself": (
        _itself, "inspect model.py:build --weights w.pt", ["no state_dict in w.pt"]),
    "the folder of a run": (
        lambda: shutil.copytree("art", "made/converted"), "evaluate made --data data",
        ["not an artifact folder", "made/converted"]),
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
        None, "convert model.py:build --data many --macs 0.5 --out o", ["3 of 35 images"]),
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
        None, "inspect model.py:build --input-size 16,16", ["16x16", "3 channels"]),
    "an input size of one number": (
        None, "inspect timm:resnet18 --random-weights --input-size 224", ["224", "3,224,224"]),
    "an input size of words": (
        None, "inspect model.py:build --input-size a,b,c", ["--input-size", "a,b,c"]),
    "an input size of nothing": (
        None, "inspect model.py:build --input-size 3,0,16", ["input"]),
    "an endless input size": (
        None, "inspect model.py:build --input-size 3,inf,16", ["input"]),
    "a huge input size": (
        None, "inspect model.py:build --input-size 3,1e9,16", ["input"]),
    "a mean of two numbers": (
        None, "evaluate model.py:build --data data --mean 0.5,0.5", ["mean", "0.5,0.5"]),
    "a mean of values to 255": (
        None, "evaluate model.py:build --data data --mean 123.7,116.3,103.5",
        ["mean is of values 0..1", "123.7", "255"]),
    "a deviation of values to 255": (
        None, "evaluate model.py:build --data data --std 58.4", ["std is of values 0..1", "58.4"]),
    "a deviation of zero": (
        None, "evaluate model.py:build --data data --std 0", ["std"]),
    "no budget": (
        None, "plan model.py:build --data data --out o", ["no budget", "--macs"]),
    "no goal": (
        None, "convert model.py:build --data data --out o", ["no budget", "--max-drop", "--plan"]),
    "a budget of nothing": (
        None, "convert model.py:build --data data --macs 0 --out o", ["budget", "macs"]),
    "a budget above all": (
        None, "convert model.py:build --data data --macs 1.5 --out o", ["--macs", "0.5 is half"]),
    "a budget in percent": (
        None, "convert model.py:build --data data --macs 50 --out o", ["--macs", "0.5 is half"]),
    "a budget with its unit": (
        None, "convert model.py:build --data data --params 50% --out o", ["--params", "0.5 is"]),
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
    "a plan that names something twice": (
        lambda: _text("p.json", '{"version": 1, "version": 1}'),
        "convert model.py:build --data data --plan p.json --out o", ["version is given twice"]),
    "a plan that is no text": (
        lambda: Path("p.json").write_bytes(b"\xff"),
        "convert model.py:build --data data --plan p.json --out o", ["p.json", "not text"]),
    "a plan with unknown entries": (
        lambda: _text("p.json", json.dumps({"version": 1, "choises": []})),
        "convert model.py:build --data data --plan p.json --out o", ["choises", "choices"]),
    "a plan for another network": (
        lambda: write_plan("nowhere", "channel", 1),
        "convert model.py:build --data data --plan written.json --out o", ["nowhere", "inspect"]),
    "a plan with an unknown form": (
        lambda: write_plan("body", "magic", 1),
        "convert model.py:build --data data --plan written.json --out o", ["magic", "separable"]),
    "a plan with a rank too large": (
        lambda: write_plan("body", "channel", 999),
        "convert model.py:build --data data --plan written.json --out o", ["999", "channel"]),
    **{
        f"a plan whose {'.'.join(place)} is {value}": (
            lambda place=place, value=value: _plan(place, value),
            "convert model.py:build --data data --plan p.json --out o", ["p.json", place[-1]])
        for value in ("NaN", "Infinity", "1e999")
        for place in (("damage",), ("damage_measured",), ("choices", "damage"), ("choices", "ms"),
                      ("latency", "ms"), ("latency", "ms_dense"), ("latency", "ms_predicted"))
    },
    "a plan with a time of nothing": (
        lambda: _plan(("latency", "ms_dense"), "0"),
        "convert model.py:build --data data --plan p.json --out o", ["p.json", "ms_dense"]),
    "a plan for a batch of nothing": (
        lambda: _plan(("latency", "batch"), "0"),
        "convert model.py:build --data data --plan p.json --out o", ["p.json", "batch"]),
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
    "integers without images": (
        None, "export art --model model.py:build --onnx o.onnx --int8", ["--int8", "--data"]),
    "an ONNX option without ONNX": (
        None, "export art --model model.py:build --pt2 o.pt2 --opset 17", ["--opset", "--onnx"]),
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
def test_bad_input_is_one_line_that_says_why_and_leaves_nothing(prepare, command, words, request):
    folder = request.getfixturevalue("here" if prepare else "shared")
    if prepare:
        prepare()
    before = tree(folder)
    line = fail(*command.split())
    assert [word for word in words if word not in line] == [], line
    assert "\x1b" not in line
    assert tree(folder) == before


@pytest.mark.parametrize("words", [
    ("inspect", ""), ("inspect", "model.py:build", "--weights", ""),
    ("inspect", "model.py:build", "--weights="),
    ("plan", "model.py:build", "--out", "o", "--data", ""),
])  # fmt: skip
def test_a_word_that_says_nothing_is_not_passed_over(words, shared):
    assert f"{words[-1] or words[-2]} is followed by nothing" in fail(*words)


@pytest.mark.parametrize("command", [
    "sweep model.py:build --data data --out o", "inspect model.py:build",
])  # fmt: skip
def test_several_processes_do_not_do_all_of_it_each(command, shared, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert "without torchrun" in fail(*command.split())
    assert not Path("o").exists()


@pytest.mark.parametrize("command", [
    "convert model.py:build --data data --macs 0.01 --out o",
    "plan model.py:build --data data --macs 0.01 --out o",
    "run tiny.yaml --model model.py:build --out o --set budget.macs=0.01",
])  # fmt: skip
def test_a_budget_out_of_reach_is_answered_with_the_least_reachable(command, shared):
    line = fail(*command.split(), code=1)
    assert "macs 0.01 asked" in line
    assert "least" in line


@pytest.mark.parametrize("verb", ["plan", "convert"])
@pytest.mark.parametrize(("given", "words"), [
    ("--latency 0", ["budget", "latency"]),
    ("--latency 1.5", ["--latency", "0.5 is half"]),
    ("--latency nan", ["budget", "latency"]),
    ("--latency 0.5 --target tensorflow", ["tensorflow", "openvino"]),
    ("--latency 0.5 --target onnxruntime --dtype float16", ["onnxruntime", "float16"]),
    ("--latency 0.5 --dtype half-ish", ["half-ish"]),
    ("--latency 0.5 --dtype int8", ["int8"]),
    ("--latency 0.5 --device nonsense", ["device", "nonsense"]),
])  # fmt: skip
def test_a_wrong_budget_of_time_is_one_line(verb, given, words, shared):
    line = fail(verb, "model.py:build", "--input-size", "3,16,16", "--out", "o", *given.split())
    assert [word for word in words if word not in line] == [], line
