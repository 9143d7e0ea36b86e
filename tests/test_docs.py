"""The pages of docs/: their code runs, their commands parse, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from outer import REPOSITORY, commands, converted, narrow_resnet, options, parsed

from convswap import export_onnx, export_program, export_tflite, save

PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in PAGES}
PYTHON = re.findall(r"## ([^\n]*)\n|```python\n(.*?)```", TEXTS["deploy.md"], re.DOTALL)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A folder with all that `deploy.md` starts from, and what the network puts out."""
    folder = tmp_path_factory.mktemp("deploy")
    small = converted(narrow_resnet(), (3, 32, 32), layer1__0__conv1=("spatial", 2))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    np.save(folder / "images.npy", images.numpy())
    save(small, folder / "net")
    export_onnx(small, images, folder / "net.onnx")
    export_program(small, images, folder / "net.pt2")
    if find_spec("litert_torch"):
        export_tflite(small, images, folder / "net.tflite")
    with torch.no_grad():
        return folder, small(images)


def blocks() -> list[tuple[str, str]]:
    """Heading and code, in order."""
    found, heading = [], ""
    for title, code in PYTHON:
        heading = title or heading
        if code:
            found.append((heading, code))
    return found


@pytest.mark.parametrize("heading", [h for h, _ in blocks() if h and "AOT" not in h])
def test_code_puts_out_what_the_network_does(heading, shipped, monkeypatch):
    for title, package in {"LiteRT": "litert_torch", "ExecuTorch": "executorch"}.items():
        if title in heading:
            pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.chdir(shipped[0])
    names = {"images": np.load("images.npy"), "np": np}
    for title, code in blocks():
        if title == heading:
            exec(compile(code, "deploy.md", "exec"), names)
    assert np.abs(np.asarray(names["scores"]) - shipped[1].numpy()).max() < 0.05  # bfloat16


def test_the_folder_says_how_images_are_read(shipped, monkeypatch, capsys):
    monkeypatch.chdir(shipped[0])
    exec(blocks()[0][1], {})
    assert "(3, 32, 32)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="AOTInductor needs a C++ compiler")
def test_a_compiled_library_puts_out_what_the_network_does(shipped, monkeypatch):
    monkeypatch.chdir(shipped[0])
    names = {"images": np.load("images.npy"), "torch": torch}
    for title, code in blocks():
        if "AOT" in title:
            exec(compile(code, "deploy.md", "exec"), names)
    assert (names["scores"] - shipped[1]).abs().max() < 1e-4


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", TEXTS[page])
    assert [link for link in links if not (REPOSITORY / "docs" / link).exists()] == []


@pytest.mark.parametrize("page", TEXTS)
def test_commands_and_options_exist(page):
    known = {name for command in commands().values() for name in options(command)}
    said = "\n".join(line for line in TEXTS[page].splitlines() if "tests/benchmarks/" not in line)
    assert set(re.findall(r"(--[a-z][a-z0-9-]+)", said)) <= known
    for line in re.findall(r"^convswap (.*)$", TEXTS[page], re.MULTILINE):
        assert parsed(shlex.split(line))
