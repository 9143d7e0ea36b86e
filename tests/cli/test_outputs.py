"""What exists stays, unless --force says otherwise."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from outer import fail, names, succeed, tree

WRITERS = {
    "plan": "plan model.py:build --data data --macs 0.5 --out taken",
    "convert": "convert model.py:build --data data --macs 0.5 --out taken",
    "distill": "distill art --model model.py:build --data data --epochs 1 --out taken",
    "export onnx": "export art --model model.py:build --onnx taken",
    "export pt2": "export art --model model.py:build --pt2 taken",
    "run": "run tiny.yaml --model model.py:build --out taken",
    "sweep": "sweep model.py:build --data data --points 2 --out taken",
    "report": "report art --out taken",
    "recipes copy": "recipes copy digits taken",
    "bench": "bench art --model model.py:build --picture taken",
}
HOLD = """
import fcntl, sys, time
lock = open(sys.argv[1], "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
print("mine", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("name", WRITERS)
def test_an_output_that_exists_is_refused_and_untouched(name, kind, here):
    if kind == "file":
        Path("taken").write_text("precious")
    else:
        Path("taken").mkdir()
        Path("taken/file").write_text("precious")
    before = tree(here)
    line = fail(*WRITERS[name].split())
    assert line.startswith("error: taken ")
    assert "choose another name" in line
    written = "folder" if name in ("convert", "distill", "run", "sweep") else "file"
    assert ("pass --force" in line) == (kind == written == "file")  # where it would help
    assert tree(here) == before


@pytest.mark.parametrize("command", WRITERS.values(), ids=WRITERS.keys())
def test_an_output_in_a_folder_that_does_not_exist_is_refused(command, shared):
    assert "does not exist" in fail(*command.replace("taken", "no/such/folder").split())


@pytest.mark.parametrize("words", [
    "export art --model model.py:build --onnx o --pt2 ./o",
    "recipes copy digits digits.safetensors", "recipes copy digits recipe.schema.json",
    "convert model.py:build --data data --macs 0.5 --out o --save-config o",
])  # fmt: skip
def test_two_outputs_of_one_name_are_refused(words, shared):
    assert "would be written twice" in fail(*words.split())


@pytest.fixture
def other_run(here):
    """Another process that writes `taken`."""
    Path(".taken.convswap").mkdir()
    command = [sys.executable, "-c", HOLD, ".taken.convswap/lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield
        process.kill()


@pytest.mark.skipif(os.name != "posix", reason="two writers are not told apart")
def test_an_output_that_another_run_writes_is_refused_at_the_start(other_run):
    for command in WRITERS.values():
        assert "another run is writing" in fail(*command.split())
    assert names().count(".taken.convswap") == 1


@pytest.mark.parametrize("name", ["plan", "export pt2", "report", "recipes copy"])
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


@pytest.mark.parametrize("name", ["convert", "distill", "run", "sweep"])
@pytest.mark.parametrize("file", ["file", "report.json", "report.html", "plan.json"])
def test_force_does_not_replace_a_folder_of_something_else(name, file, here):
    Path("taken").mkdir()
    Path("taken", file).write_text("precious")
    before = tree(here)
    assert fail(*WRITERS[name].split(), "--force") == (
        "error: taken holds something else - choose another name"
    )
    assert tree(here) == before


@pytest.mark.parametrize("name", ["run", "sweep"])
def test_force_replaces_the_folder_of_a_run_and_keeps_what_else_is_in_it(name, here):
    succeed(*WRITERS[name].split())
    Path("taken/file").write_text("precious")
    Path("taken/report.html").write_text("old")
    succeed(*WRITERS[name].split(), "--force")
    assert Path("taken/file").read_text() == "precious"
    assert Path("taken/report.html").read_text() != "old"


@pytest.mark.parametrize("name", ["plan", "export onnx", "export pt2", "report", "recipes copy"])
def test_force_does_not_turn_a_folder_into_a_file(name, here):
    Path("taken").mkdir()
    before = tree(here)
    assert "taken" in fail(*WRITERS[name].split(), "--force")
    assert tree(here) == before


@pytest.mark.parametrize("name", ["run", "sweep"])
def test_force_does_not_turn_a_file_into_the_folder_of_a_run(name, here):
    Path("taken").write_text("old")
    before = tree(here)
    assert "taken" in fail(*WRITERS[name].split(), "--force")
    assert tree(here) == before


@pytest.mark.parametrize("out", [".", "", "..", "/"])
@pytest.mark.parametrize("name", WRITERS)
def test_an_output_without_a_name_is_refused(name, out, shared):
    words = [out if word == "taken" else word for word in WRITERS[name].split()]
    said = "has no name of its own" if out else "is followed by nothing"
    assert said in fail(*words, "--force")
