"""What all verbs have in common: help, usage, what goes to stdout."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from outer import RECIPE, USER, commands, convswap, fail, parsed, squeezed, succeed

from convswap import __version__, cli
from convswap.cli import console


@pytest.mark.parametrize("words", [*commands()])
def test_help_of_every_command_says_what_it_does_and_shows_an_example(words):
    done = succeed(*words.split(), "--help")
    assert done.err == ""
    text = squeezed(done.out)
    assert f"Example: convswap {words}" in text
    about = commands()[words].help.strip().splitlines()[0]
    assert about.endswith(".")
    assert " ".join(about.split())[:40] in text


@pytest.mark.parametrize("words", [*commands()])
def test_every_example_is_a_command_line_that_parses(words):
    command = commands()[words]
    called, *arguments = shlex.split(command.help_epilogue.removeprefix("Example: "))
    assert called == "convswap"
    assert " ".join(arguments[: len(words.split())]) == words
    assert parsed(arguments) is command.default_command


def test_no_arguments_is_answered_with_the_list_of_commands():
    done = convswap()
    assert all(f" {words.split()[0]} " in done.out + done.err for words in commands())


@pytest.mark.parametrize(("arguments", "words"), [
    ("nonsense", ["nonsense", "convert"]),
    ("recipes nonsense", ["nonsense", "copy"]),
    ("convert", ["MODEL"]),
    ("convert timm:resnet18", ["--out"]),
    ("inspect a b", ["b"]),
    ("inspect a --nope 1", ["--nope"]),
    ("export a --random-weights --onnx o", ["--random-weights", "an option of inspect, plan"]),
    ("sweep a --macs 0.5 --data d --out o", ["option: --macs - it is an option of plan, convert"]),
    ("inspect a --no-json", ["--no-json"]),
    ("inspect a --model", ["--model"]),
    ("distill art --data d --epochs 0 --out o", ["--epochs", "0"]),
    ("evaluate art --data d --threads 0", ["--threads", "0"]),
    ("evaluate art --data d --seed x", ["--seed", "x"]),
    ("plan art --macs a --out o", ["--macs", "a"]),
    ("bench art --target nowhere", ["--target", "nowhere", "openvino"]),
    ("bench art --seconds -1", ["--seconds", "-1"]),
    ("sweep art --data d --out o --points 1", ["--points", "1"]),
    ("sweep art --data d --out o --points 1000000", ["--points"]),
    ("evaluate art --data d --threads 1000000", ["--threads"]),
    ("evaluate art --data d --batch-size 99999999999", ["--batch-size"]),
    ("evaluate art --data d --images 99999999999", ["--images"]),
    ("evaluate art --data d --seed 99999999999999999999", ["--seed"]),
    ("bench art --batch 99999999999", ["--batch"]),
    ("bench art --seconds inf", ["--seconds"]),
    ("export art --onnx o --batch 99999999999", ["--batch"]),
    ("plan art --macs 0.5 --out o --memory inf", ["--memory"]),
    ("convert art --max-drop nan --val d --out o", ["--max-drop"]),
    ("convert art --max-drop inf --val d --out o", ["--max-drop"]),
    ("convert art --max-drop -1 --val d --out o", ["--max-drop"]),
    *((f"distill art --data d --out o --{what} {value}", [f"--{what}"])
      for what in ("epochs", "minutes", "lr") for value in ("inf", "nan", "1e20")),
    ("distill art --data d --out o --workers 1000000", ["--workers"]),
])  # fmt: skip
def test_a_wrong_call_is_answered_with_one_line(arguments, words, shared):
    line = convswap(*arguments.split())
    assert (line.code, line.out) == (2, "")
    assert line.err.count("\n") == 1
    assert line.err.startswith("error: ")
    assert [word for word in words if word not in line.err] == []


def test_the_version_is_printed():
    assert succeed("--version").out.strip() == __version__


HEAVY = ("torch", "timm", "torchvision", "scipy", "matplotlib", "onnx", "sklearn")
QUICK = ["--help", "--version", "recipes list", *(f"{words} --help" for words in commands())]


def ends(commands: list[str], folder: Path) -> list[tuple[int, list[str], str]]:
    """How each of some commands ends in one process: its code, the heavy packages that are imported
    by then, and what it says."""
    code = f"""import sys
from convswap.cli import console, main
ends = []
for arguments in {commands}:
    sys.argv = ["convswap", *arguments.split()]
    try:
        with console.err.capture() as said:
            main()
    except SystemExit as stop:
        ends.append((stop.code, sorted(set(sys.modules) & {{*{HEAVY}}}), said.get()))
print("ENDS", ends)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=folder)
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout.rpartition("ENDS ")[2])


def test_help_versions_and_recipes_come_without_heavy_packages(tmp_path):
    assert ends(QUICK, tmp_path) == [(0, [], "")] * len(QUICK)


MISTAKES = {  # what is said of each; `here` is a folder, `here.py` a file, all else is not there
    "inspect nothing": "unknown model 'nothing' - say timm:nothing, torchvision:nothing,",
    "inspect timm:resnet18 more": "nothing is done with 'more'\n",
    "inspect timm:resnet18 --input-size 3 32 32": "'32' and 1 more - numbers that belong together",
    "bench here here/2.jpg here/3.jpg": "'here/2.jpg' and 1 more - name the folder: here",
    "inspect net.py": "say net.py:FACTORY",
    "inspect none.py:build": "no such file: none.py",
    "plan timm:resnet18 --macs 0.5 --out here.py": "here.py exists",
    "plan timm:resnet18 --macs 0.5 --out plan.json --data none": "no such folder or file: none",
    "plan timm:resnet18 --macs 5 --out plan.json": "macs",
    "convert timm:resnet18 --macs 0.5 --out here": "here holds something else",
    "convert timm:resnet18 --macs 0.5 --out new --data none": "no such folder or file: none",
    "convert timm:resnet18 --macs 0.5 --out new --weights none.pt": "no such weights file: none.pt",
    "convert timm:resnet18 --out new --data here": "no budget given",
    "convert timm:resnet18 --max-drop 1 --val none --out new --data here": "none",
    "convert timm:resnet18 --max-drop 1 --val synthetic --out new --data here": "made up",
    "convert timm:resnet18 --max-drop 1 --judge none.py:f --out new --data here": "none.py",
    "sweep nothing --data here --out new": "unknown model 'nothing'",
    "sweep timm:resnet18 --data none --out new": "none",
    "sweep timm:resnet18 --data here --out here": "here holds something else",
    "distill none --data here --out new": "no such artifact folder: none",
    "distill here --data none --out new": "no such folder or file: none",
    "distill here --data here --out here": "here holds something else",
    "evaluate nothing --data here": "unknown model 'nothing'",
    "evaluate here --data none": "no such folder or file: none",
    "evaluate here --data here --against nothing": "unknown model 'nothing'",
    "bench none": "no such artifact folder: none",
    "bench here --against nothing": "unknown model 'nothing'",
    "bench here --picture here.py": "here.py exists",
    "export none --onnx new.onnx": "no such artifact folder: none",
    "export here": "nothing to export",
    "export here --onnx new.onnx --data none": "no such folder or file: none",
    "report none": "no such artifact folder: none",
    "report here --data none --out new.html": "no such folder or file: none",
    "push none me/new": "no such artifact folder: none",
    "run nothing": "nothing",
    "run digits --out here": "here holds something else",
    "run digits --set data.test=none": "none - say --set data.test=SRC",
    "run digits --set model.name=null": "names no model",
}


def test_mistakes_are_told_before_heavy_packages_are_imported(tmp_path):
    (tmp_path / "here").mkdir()
    for name in ("here.py", "here/2.jpg", "here/3.jpg"):
        (tmp_path / name).write_text("")
    found = dict(zip(MISTAKES, ends([*MISTAKES], tmp_path), strict=True))
    wrong = {
        words: (code, heavy, said)
        for words, (code, heavy, said) in found.items()
        if code != 2 or heavy or MISTAKES[words] not in said or said.count("\n") != 1
    }
    assert wrong == {}


def test_the_package_is_a_command():
    command = [sys.executable, "-m", "convswap", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout.strip()) == (0, __version__), done.stderr


def test_the_console_script_is_installed():
    script = Path(sys.executable).with_name("convswap")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "convert" in done.stdout


def test_the_command_table_is_the_one_promised():
    assert set(commands()) >= {
        "inspect", "plan", "convert", "distill", "evaluate", "bench", "export", "run",
        "recipes list", "recipes show", "recipes copy", "recipes check",
    }  # fmt: skip
    assert cli.app.name[0] == "convswap"


@pytest.mark.parametrize("verb", ["plan", "convert"])
def test_help_names_the_options_of_time(verb):
    text = squeezed(succeed(verb, "--help").out)
    for option in ("--latency", "--target", "--batch", "--dtype"):
        assert option in text
    assert "eager, compile, onnxruntime, onnxruntime-int8, openvino" in text


def test_a_pipe_gets_one_json_document_and_nothing_else(shared):
    script = Path(sys.executable).with_name("convswap")
    arguments = [script, "evaluate", *USER, "--data", "data", "--json"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 40
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-"])
def test_a_command_whose_output_is_closed_does_its_work(closed, here):
    command = [sys.executable, "-m", "convswap", "recipes", "copy", "digits", "written"]
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *command], timeout=600)
    assert done.returncode == 0
    assert "budget" in Path("written").read_text()


def test_a_terminal_of_few_characters_is_told_names_of_any(here):
    Path("ré.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "convswap", "recipes", "check", "ré.yaml"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert (done.returncode, done.stdout) == (0, "r\\xe9.yaml is a valid recipe\n")


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


def test_an_unexpected_error_is_not_hidden(shared, monkeypatch):
    def fall_over(*args, **kwargs):
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr("convswap.observe", fall_over)
    with pytest.raises(ZeroDivisionError):
        convswap("inspect", "model.py:build")


class Gone(io.StringIO):
    """What is printed to, and takes nothing: a closed pipe, or a file on a full disk."""

    def __init__(self, code: int):
        super().__init__()
        self.code = code

    def write(self, text: str) -> int:
        raise OSError(self.code, os.strerror(self.code))


@pytest.fixture
def unread(shared):
    """What a console could not print, it keeps: not for the next test."""
    yield
    for each in (console.out, console.err, console.help_pages):
        with each.capture():
            pass


PRINTING = (
    "--help",
    "--version",
    "recipes list",
    "recipes schema",
    "recipes show digits",
    "completion fish",
    "inspect model.py:build",
    "inspect model.py:build --json",
)


@pytest.mark.parametrize("words", PRINTING)
@pytest.mark.parametrize(("code", "ends", "said"), [
    (errno.EPIPE, 141, []), (errno.ENOSPC, 2, ["error: No space left on device"]),
])  # fmt: skip
def test_what_nobody_can_read_ends_a_command(code, ends, said, words, unread):
    done = convswap(*words.split(), out=Gone(code))
    assert done.code == ends
    assert [line for line in done.err.splitlines() if line.startswith("error")] == said


@pytest.mark.parametrize(("code", "ends"), [(errno.EPIPE, 141), (errno.ENOSPC, 2)])
def test_an_error_that_nobody_can_read_has_its_exit_code(code, ends, unread):
    assert convswap("inspect", "nowhere.py:build", err=Gone(code)).code == ends


def test_work_goes_on_where_its_course_cannot_be_told(unread):
    assert convswap("inspect", "model.py:build", err=Gone(errno.ENOSPC)).code == 0


def fail_for_memory():
    raise MemoryError


def fail_on_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def fail_in_a_convolution():
    raise RuntimeError("could not create a primitive")


@pytest.mark.parametrize("lack", [
    fail_for_memory, fail_on_a_gpu, fail_in_a_convolution, lambda: torch.empty(1 << 50),
])  # fmt: skip
def test_memory_that_does_not_suffice_is_one_line(lack, shared, monkeypatch):
    monkeypatch.setattr("convswap.observe", lambda *args, **kwargs: lack())
    assert "out of memory - use fewer images" in fail("inspect", "model.py:build")


def test_threads_are_set(shared):
    before = torch.get_num_threads()
    try:
        succeed("evaluate", *USER, "--data", "data", "--threads", "1")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_shell_completes_commands_and_options(tmp_path):
    (tmp_path / "script").write_text(succeed("completion", "bash").out)
    ask = """
        source ./script
        for words in "convswap conv" "convswap convert --sav"; do
            COMP_WORDS=($words); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            COMP_LINE=$words; COMP_POINT=${#words}; COMPREPLY=()
            _convswap; echo "${COMPREPLY[@]}"
        done"""
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, cwd=tmp_path)
    assert [line.split() for line in done.stdout.splitlines()] == [["convert"], ["--save-config"]]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_as_well(shell):
    assert "save-config" in succeed("completion", shell).out


def test_what_libraries_make_is_not_looked_through_for_garbage():
    code = """
import gc, sys
from convswap.cli import early
before = gc.get_freeze_count()
early.check()
frozen = gc.get_freeze_count()
early.check()
once = gc.get_freeze_count() == frozen
print("torch" in sys.modules, gc.isenabled(), frozen - before > 100_000, once)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stdout.split() == ["True"] * 4, done.stderr
