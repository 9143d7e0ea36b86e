"""Attacks on artifacts: mutations, hostile folders, kills, full disks. Refused in one line, or the
very same network; never half a file."""

from __future__ import annotations

import copy
import errno
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from outer import (
    NARROW,
    RECIPE,
    SIZE,
    converted,
    fail,
    frugal,
    names,
    narrow_resnet,
    succeed,
    tree,
    truncate,
    user_network,
    write_artifact,
    write_images,
    write_user_files,
)
from safetensors.torch import load_file, save_file

from convswap import ConvswapError, load, save
from convswap.__main__ import main
from convswap.artifact.description import read_description, staged_as
from convswap.cli.ending import ending

posix = pytest.mark.skipif(os.name != "posix", reason="signals and links are POSIX")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """A small artifact and what it puts out."""
    folder = tmp_path_factory.mktemp("attacks") / "art"
    small = converted(narrow_resnet(), (3, 32, 32), layer1__0__conv1=("spatial", 2))
    save(small, folder, provenance={"note": "hello"})
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return folder, images, small(images)


def survives(folder: Path, images: torch.Tensor, expected: torch.Tensor) -> None:
    """The folder is refused in one line, or is the very same network."""
    try:
        network = load(folder)
    except ConvswapError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert torch.equal(network(images), expected)
    assert refusal.isprintable()
    assert len(refusal) <= 2000


# --- mutations ------------------------------------------------------------------------------

VALUES = (None, True, -1, 0, 3, 1 << 40, 1e308, "", "x", "timm:resnet34", "\x1b[2J\nforged", [], {})


def mutate_json(content: object, dice: random.Random) -> object:
    """One entry, anywhere, removed or replaced."""
    places = []

    def visit(value):
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], (dict, list)):
                visit(value[key])

    content = copy.deepcopy(content)
    visit(content)
    holder, key = dice.choice(places)
    if dice.random() < 0.3:
        del holder[key]
    else:
        holder[key] = dice.choice(VALUES)
    return content


def mutate_bytes(content: bytes, dice: random.Random, head: int) -> bytes:
    """Bits flipped, bytes cut out or put in, half of the time in the header."""
    place = dice.randrange(head if dice.random() < 0.5 else len(content))
    kind = dice.choice(("flip", "cut", "insert", "truncate"))
    if kind == "flip":
        return (
            content[:place]
            + bytes([content[place] ^ 1 << dice.randrange(8)])
            + content[place + 1 :]
        )
    if kind == "cut":
        return content[:place] + content[place + dice.randrange(1, 9) :]
    if kind == "insert":
        return content[:place] + dice.randbytes(dice.randrange(1, 9)) + content[place:]
    return content[:place]


COUNTS = [pytest.param(60, 1), pytest.param(500, 2, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("count", "seed"), COUNTS)
def test_a_mutated_description_is_refused_or_means_the_same(count, seed, artifact, tmp_path):
    folder, images, expected = artifact
    shutil.copytree(folder, tmp_path / "art")
    content = json.loads((folder / "convswap.json").read_text())
    dice = random.Random(seed)
    for _ in range(count):
        changed = json.dumps(mutate_json(content, dice))
        (tmp_path / "art" / "convswap.json").write_text(changed)
        survives(tmp_path / "art", images, expected)


@pytest.mark.parametrize(("count", "seed"), COUNTS)
def test_a_mutated_weights_file_is_refused_or_means_the_same(count, seed, artifact, tmp_path):
    folder, images, expected = artifact
    shutil.copytree(folder, tmp_path / "art")
    content = (folder / "model.safetensors").read_bytes()
    head, dice = 8 + int.from_bytes(content[:8], "little"), random.Random(seed)
    for _ in range(count):
        changed = mutate_bytes(content, dice, head)
        (tmp_path / "art" / "model.safetensors").write_bytes(changed)
        survives(tmp_path / "art", images, expected)


@pytest.mark.parametrize("bit", range(8))
def test_every_bit_of_a_weight_counts(bit, artifact, tmp_path):
    shutil.copytree(artifact[0], tmp_path / "art")
    path = tmp_path / "art" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(ConvswapError, match="not what was written"):
        load(tmp_path / "art")


# --- hostile folders ------------------------------------------------------------------------


def _kwargs(**kwargs):
    return lambda content: content["record"]["base"].update(kwargs=NARROW | kwargs)


def _vit(**kwargs):
    return lambda content: content["record"]["base"].update(
        name="timm:vit_base_patch16_224", kwargs=kwargs)  # fmt: skip


def _preprocess(**changes):
    return lambda content: content["record"]["preprocess"].update(changes)


def _choices(content):
    return content["record"]["plans"][0]["choices"]


def _choice(**changes):
    return lambda content: _choices(content)[0].update(changes)


def _weights(name):
    return lambda content: content["record"]["base"].update(weights=name, sha256="0" * 64)


def _time(**changes):
    known = {"target": "eager", "threads": 1, "device": "cpu", "dtype": "float32", "batch": 1,
             "ms_dense": 1.0, "ms": 1.0, "ms_predicted": 1.0}  # fmt: skip
    return lambda content: content["record"]["plans"][0].update(latency=known | changes)


def _large_and_unfit(content):
    content["record"]["preprocess"].update(input_size=[3, 3000, 3000])
    _choices(content)[0].update(pads=[0, 0])  # smaller than the shortcut it is added to


HOSTILE = {
    "a padding without end": _choice(pads=[1 << 20, 1 << 20]),
    "a padding that takes away": _choice(pads=[-1, -1]),
    "a padding of one axis": _choice(pads=[0]),
    "a type of whole numbers": _choice(dtype="int8"),
    "a large input that does not fit": _large_and_unfit,
    "a time too short to be one": _time(ms_dense=5e-324, ms=1e12),
    "a seed of thousands of digits": _weights("seed:" + "9" * 5000),
    "a seed that is no number": _weights("seed:x"),
    "notes within notes": lambda content: content.update(
        provenance={"x": json.loads("[" * 200 + "]" * 200)}),
    "a network that warns": lambda content: content["record"]["base"].update(
        name="torchvision:googlenet", kwargs={}),
    "a depth without end": _vit(depth=1 << 20),
    "a depth of thousands": _vit(depth=8000),
    "a width without end": _vit(embed_dim=1 << 20),
    "layers without end": _kwargs(layers=[1 << 20] * 4),
    "layers by the thousand": _kwargs(layers=[8000] * 4),
    "a nested argument": _kwargs(block_args=json.loads("[" * 40 + "]" * 40)),
    "another activation": _kwargs(act_layer="no_such_layer"),
    "tables of positions without end": lambda content: content["record"]["base"].update(
        name="timm:maxvit_tiny_tf_224", kwargs={"img_size": 8000}),
    "a name of a megabyte": lambda content: content["record"]["base"].update(name="x" * (1 << 20)),
    "a description of ten megabytes": lambda content: content.update(
        provenance={"x": "x" * (10 << 20)}),
    "a mean of nothing": _preprocess(mean=[]),
    "a mean of two": _preprocess(mean=[0.5, 0.5]),
    "a mean that is no number": _preprocess(mean=[float("nan")] * 3),
    "an endless deviation": _preprocess(std=[float("inf")] * 3),
    "a crop of nothing": _preprocess(crop_pct=1e-9),
    "an input of a terabyte": _preprocess(input_size=[3, 1 << 20, 1 << 20]),
    "an input of other channels": _preprocess(input_size=[4, 32, 32], mean=[0] * 4, std=[1] * 4),
    "a layer that forges a line": _choice(site="x\nwrote base"),
    "a layer inside a replaced one": lambda content: _choices(content).append(
        _choices(content)[0] | {"site": "layer1.0.conv1.reduce"}),
    "a number that is none, deep in the notes": lambda content: content.update(
        provenance={"x": [[float("nan")]]}),
    "choices by the million": lambda content: content["record"]["plans"][0].update(
        choices=[0] * 1_000_000),
    "unknown entries by the thousand": lambda content: content.update(
        {f"x{index}": index for index in range(100_000)}),
    "lists within lists by the thousand": lambda content: content.update(
        provenance={"x": [json.loads("[" * 30 + "]" * 30)] * 60_000}),
    "versions by the hundred": lambda content: content.update(
        versions={str(index): "1" for index in range(200)}),
    "plans by the hundred": lambda content: content["record"].update(
        plans=content["record"]["plans"] * 300),
}  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_folder_is_refused_quickly_and_in_one_line(change, artifact, tmp_path):
    shutil.copytree(artifact[0], tmp_path / "art")
    content = json.loads((tmp_path / "art" / "convswap.json").read_text())
    del content["digest"], content["tensors"]
    change(content)
    (tmp_path / "art" / "convswap.json").write_text(json.dumps(content))
    with pytest.raises(ConvswapError) as caught, frugal():
        load(tmp_path / "art")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 2000
    assert "warn" not in str(caught.value).lower()
    assert "future" not in str(caught.value).lower()


def _write_weights(path: Path, shape: list[int], count: int) -> None:
    """A weights file of zeros, which takes no room."""
    size = 4 * math.prod(shape)
    header = json.dumps({
        f"t{index}": {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        for index, at in enumerate(size * index for index in range(count))
    }).encode()  # fmt: skip
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size * count)


@posix
@pytest.mark.parametrize(("shape", "count"), [([1 << 20], 2500), ([0], 20_000)])
@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("levit_384", {"img_size": 2048}), ("vit_base_patch16_224", {"depth": 2500})],
)
def test_weights_that_only_claim_to_be_many_have_nothing_built(
    name, kwargs, shape, count, artifact, tmp_path
):
    shutil.copytree(artifact[0], tmp_path / "art")
    content = json.loads((tmp_path / "art" / "convswap.json").read_text())
    del content["digest"]
    content["record"]["base"].update(name=f"timm:{name}", kwargs=kwargs)
    (tmp_path / "art" / "convswap.json").write_text(json.dumps(content))
    _write_weights(tmp_path / "art" / "model.safetensors", shape, count)
    with pytest.raises(ConvswapError, match="cannot rebuild"), frugal():
        load(tmp_path / "art")


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "..", "", "/dev/zero", "\x1b[2J", "/etc"])
def test_the_name_of_the_weights_before_can_be_anything(name, artifact, tmp_path):
    shutil.copytree(artifact[0], tmp_path / "art")
    content = json.loads((tmp_path / "art" / "convswap.json").read_text())
    del content["digest"]
    _weights(name)(content)
    (tmp_path / "art" / "convswap.json").write_text(json.dumps(content))
    with frugal():
        assert torch.equal(load(tmp_path / "art")(artifact[1]), artifact[2])
    write_images(tmp_path / "data", each=1, size=(32, 32))
    assert "weights" in fail("report", tmp_path / "art", "--data", tmp_path / "data")


@posix
@pytest.mark.parametrize("name", ["convswap.json", "model.safetensors", "staged"])
@pytest.mark.parametrize("kind", ["pipe", "device", "system", "sparse"])
def test_only_regular_files_of_a_sane_size_are_read(kind, name, artifact, tmp_path):
    shutil.copytree(artifact[0], tmp_path / "art")
    staged = staged_as(read_description(artifact[0]).digest)
    name = staged if name == "staged" else name
    path = tmp_path / "art" / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "system":  # it says that it is a regular file of no bytes
        path.symlink_to("/proc/self/pagemap")
    else:
        with path.open("wb") as file:
            file.truncate(8 << 30)
    with pytest.raises(ConvswapError, match=name), frugal():
        load(tmp_path / "art")


@posix
def test_a_folder_that_no_file_can_be_opened_of_is_told(artifact, monkeypatch):
    def fails(*args: object, **kwargs: object) -> None:  # as PyTorch, which maps the file
        raise RuntimeError("unable to open file <model.safetensors>: Too many open files (24)")

    monkeypatch.setattr("convswap.support.tensors.safe_open", fails)
    with pytest.raises(ConvswapError, match=r"cannot read .*: unable to open file .*\(24\)"):
        load(artifact[0])


@posix
def test_what_another_run_had_staged_is_not_even_opened(artifact, tmp_path):
    shutil.copytree(artifact[0], tmp_path / "art")
    os.mkfifo(tmp_path / "art" / staged_as("0" * 64))
    network = load(tmp_path / "art")
    assert torch.equal(network(artifact[1]), artifact[2])
    save(network, tmp_path / "art", force=True)
    assert not [name for name in names(tmp_path / "art") if name.startswith(".")]


def _value(name: str, value: float):
    """One value of a tensor changed, in a folder without digests."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors[name].view(-1)[0] = value
        save_file(tensors, folder / "model.safetensors")
        content = json.loads((folder / "convswap.json").read_text())
        del content["digest"], content["tensors"]
        (folder / "convswap.json").write_text(json.dumps(content))

    return change


def _swap(folder: Path) -> None:
    save(converted(narrow_resnet(), (3, 32, 32), layer2__0__conv1=("channel", 3)), folder / "other")
    shutil.move(folder / "other" / "model.safetensors", folder / "model.safetensors")


def _pipe(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def _folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


def _text(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


def _header(folder: Path, change: Callable[[str], str]) -> None:
    """The header of the weights changed, in a folder without digests."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = change(content[8:start].decode()).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[start:])


DAMAGED = {
    "truncated": lambda folder: truncate(folder / "model.safetensors"),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "another network's weights": _swap,
    "a pipe": _pipe,
    "a folder in place of a file": _folder,
    "a weight that is no number": _value("fc.weight", float("nan")),
    "an endless mean": _value("bn1.running_mean", float("inf")),
    "a negative variance": _value("bn1.running_var", -1.0),
    "a weight as large as can be": _value("conv1.weight", 1e38),
    "a description that is no JSON": lambda folder: truncate(folder / "convswap.json"),
    "a description that names something twice": lambda folder: _text(
        folder / "convswap.json", lambda text: text.replace("{", '{"format": 1, ', 1)),
    "tensors of one name": lambda folder: _header(folder, lambda text: text.replace(
        '"fc.bias":', '"fc.bias":{"dtype":"I32","shape":[4],"data_offsets":[0,16]},"fc.bias":')),
    "a description of other bytes": lambda folder: (folder / "convswap.json").write_bytes(b"\xff"),
}  # fmt: skip
VERBS = (
    "inspect art", "plan art --data data --macs 0.9 --out o", "bench art --seconds 0.1",
    "convert art --data data --macs 0.9 --out o", "sweep art --data data --points 2 --out o",
    "distill art --data data --epochs 1 --out o", "evaluate art --data data",
    "export art --onnx o", "report art --data data --out o", "push art me/it",
    "evaluate timm:resnet18 --random-weights --data data --against art",
)  # fmt: skip


CASES = HOSTILE | DAMAGED
STEPS = [pytest.param(4, id="some"), pytest.param(1, id="every", marks=pytest.mark.slow)]


@posix
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_every_verb_refuses_a_damaged_folder_in_one_line(
    case, step, artifact, tmp_path, monkeypatch
):
    """Another few verbs for each case, or all of them."""
    verbs, change = VERBS[[*CASES].index(case) % step :: step], CASES[case]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(artifact[0], tmp_path / "art")
    write_images(tmp_path / "data", each=1, size=(32, 32))
    if case in DAMAGED:
        change(tmp_path / "art")
    else:
        content = json.loads((tmp_path / "art" / "convswap.json").read_text())
        del content["digest"], content["tensors"]
        change(content)
        (tmp_path / "art" / "convswap.json").write_text(json.dumps(content))
    before = names(tmp_path)
    for verb in verbs:
        line = fail(*verb.split())
        assert line.isprintable(), verb
        assert len(line) <= 2100, verb
        assert names(tmp_path) == before, verb


def test_a_report_runs_nothing_that_does_not_fit_the_weights(artifact, tmp_path):
    shutil.copytree(artifact[0], tmp_path / "art")
    content = json.loads((tmp_path / "art" / "convswap.json").read_text())
    del content["digest"]
    content["record"]["base"].update(name="timm:resnetv2_152x4_bit", kwargs={})  # takes minutes
    (tmp_path / "art" / "convswap.json").write_text(json.dumps(content))
    with frugal():
        succeed("report", tmp_path / "art")


AUDIT = """
import os, sys
import convswap, timm, torch, torchvision  # noqa: imported before anything is forbidden
from convswap.cli import main
def audit(event, args):
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    if writes or event in ("socket.connect", "socket.getaddrinfo", "os.mkdir", "subprocess.Popen"):
        print("forbidden", event, args, file=sys.__stderr__)
        os._exit(99)
sys.addaudithook(audit)
for folder in sys.argv[1:]:
    sys.argv, code = ["convswap", "inspect", folder], 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    print("ended with", code, file=sys.stderr)
"""


def test_nothing_is_fetched_or_written_on_a_folders_word(artifact, nursery, tmp_path):
    shutil.copytree(artifact[0], tmp_path / "art")
    content = json.loads((tmp_path / "art" / "convswap.json").read_text())
    del content["digest"], content["tensors"]
    content["record"]["base"].update(name="torchvision:fcn_resnet50", kwargs={})
    (tmp_path / "art" / "convswap.json").write_text(json.dumps(content))
    done = nursery.run(AUDIT, artifact[0], tmp_path / "art", cwd=tmp_path)
    assert done.code == 0, done.err
    ends = [line for line in done.err.splitlines() if line.startswith("ended")]
    assert ends == ["ended with 0", "ended with 2"]


# --- writing --------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import convswap
network, at = convswap.load(sys.argv[1]), int(sys.argv[3])
steps = 0
def step(event, args):
    global steps
    if event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir") or (
        event == "open" and str(args[1])[:1] in "wa"):
        steps += 1
        if steps == at:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(step)
convswap.save(network, sys.argv[2], provenance={"note": "new"}, force=True)
print(steps)
"""


def _note(folder: Path) -> str:
    load(folder)
    return json.loads((folder / "convswap.json").read_text())["provenance"]["note"]


@posix
@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_and_litter_goes(
    before, artifact, nursery, tmp_path
):
    for step in range(1, 40):
        place = tmp_path / str(step)
        place.mkdir()
        if before:
            shutil.copytree(artifact[0], place / "art")
            (place / "art" / "exported.onnx").write_text("the user's own")
        done = nursery.run(KILLED, artifact[0], place / "art", step, cwd=place)
        assert done.code in (0, -signal.SIGKILL), done.err
        if before or (place / "art").exists():
            assert _note(place / "art") in ("hello", "new")
        save(load(artifact[0]), place / "art", provenance={"note": "next"}, force=True)
        assert _note(place / "art") == "next"
        assert names(place) == ["art"]
        kept = ["exported.onnx"] if before else []
        assert names(place / "art") == sorted([*names(artifact[0]), *kept])
        if done.code == 0:
            break
    assert done.code == 0
    assert step > 5


def test_weights_that_had_not_followed_their_description_are_found(artifact, tmp_path):
    shutil.copytree(artifact[0], tmp_path / "art")
    network = load(artifact[0])
    network.fc.bias.data += 1
    save(network, tmp_path / "new")
    staged = staged_as(read_description(tmp_path / "new").digest)
    (tmp_path / "new" / "model.safetensors").rename(tmp_path / "art" / staged)
    (tmp_path / "new" / "convswap.json").replace(tmp_path / "art" / "convswap.json")
    assert torch.equal(load(tmp_path / "art").fc.bias, network.fc.bias)
    save(load(tmp_path / "art"), tmp_path / "art", force=True)
    assert torch.equal(load(tmp_path / "art").fc.bias, network.fc.bias)
    assert staged not in names(tmp_path / "art")


def test_force_keeps_the_users_files_in_the_folder(artifact, tmp_path):
    shutil.copytree(artifact[0], tmp_path / "art")
    (tmp_path / "art" / "exported.onnx").write_text("mine")
    (tmp_path / "art" / "second").mkdir()
    save(load(tmp_path / "art"), tmp_path / "art", force=True)
    assert names(tmp_path / "art") == [
        "README.md", "config.json", "convswap.json", "exported.onnx", "model.safetensors",
        "second",
    ]  # fmt: skip


@posix
@pytest.mark.parametrize("name", ["convswap.json", "model.safetensors"])
def test_a_linked_file_in_the_folder_is_not_replaced(name, artifact, tmp_path):
    shutil.copytree(artifact[0], tmp_path / "art")
    shutil.move(tmp_path / "art" / name, tmp_path / "blob")
    (tmp_path / "art" / name).symlink_to(tmp_path / "blob")
    before = tree(tmp_path)
    with pytest.raises(ConvswapError, match="symbolic link"):
        save(load(tmp_path / "art"), tmp_path / "art", force=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["fsync", "replace", "mkdir"])
def test_a_disk_that_fails_is_one_line_and_changes_nothing(call, code, tmp_path, monkeypatch):
    write_user_files(tmp_path)
    write_artifact(tmp_path)
    monkeypatch.chdir(tmp_path)
    plan = json.loads((tmp_path / "art" / "convswap.json").read_text())["record"]["plans"][0]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    before = tree(tmp_path)

    def failing(*args, **kwargs):
        raise OSError(code, os.strerror(code), "out")

    monkeypatch.setattr(os, call, failing)
    line = fail("convert", "model.py:build", "--weights", "weights.safetensors", "--plan",
                "plan.json", "--fit", "weight", "--input-size", "3,16,16", "--out", "art",
                "--force")  # fmt: skip
    monkeypatch.undo()
    assert os.strerror(code) in line
    assert tree(tmp_path) == before


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A folder of the user's files beside `disk`, which holds 4 KB, or 24 KB, and no more."""
    monkeypatch.chdir(tmp_path)
    write_user_files(tmp_path)
    write_artifact(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "disk").mkdir()

    def mount(size: str, *options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "disk"]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("only root may mount a small disk")
        return tmp_path / "disk"

    yield mount
    subprocess.run(["umount", "disk"], capture_output=True)


OURS = "model.py:build --weights weights.safetensors --data data"
BACK = "--model model.py:build --teacher-weights weights.safetensors"
WRITES = {
    "convert": f"convert {OURS} --macs 0.7 --out disk/o",
    "distill": f"distill art {BACK} --data data --epochs 1 --out disk/o",
    "onnx": "export art --model model.py:build --onnx disk/o",
    "int8": "export art --model model.py:build --onnx disk/o --int8 --data data",
    "pt2": "export art --model model.py:build --pt2 disk/o",
    "report": f"report art {BACK} --data data --out disk/o",
    "copy": "recipes copy digits disk/o",
    "sweep": f"sweep {OURS} --points 2 --out disk/o",
    "run": "run r.yaml --model model.py:build --out disk/o",
}


@posix
@pytest.mark.parametrize("verb", WRITES)
def test_a_full_disk_is_one_line_and_leaves_nothing(verb, small_disk):
    disk = small_disk("4k")
    assert "No space left on device: disk/" in fail(*WRITES[verb].split())
    assert names(disk) == []


@posix
def test_a_sweep_that_found_no_room_works_once_there_is_some(small_disk):
    disk = small_disk("40k")
    assert "No space left on device" in fail(*WRITES["sweep"].split())
    assert names(disk) == []
    subprocess.run(["mount", "-o", "remount,size=4m", "disk"], check=True)
    succeed(*WRITES["sweep"].split())
    assert names(disk / "o") == ["frontier.json", "frontier.png", "report.html"]


@posix
def test_what_has_been_trained_is_kept_where_its_history_has_no_room(small_disk):
    disk = small_disk("16k")
    assert "No space left on device" in fail(*WRITES["distill"].split())
    assert names(disk) == ["o"]
    load(disk / "o", user_network(Path(), weights=False))


@posix
def test_a_folder_may_have_a_name_that_is_no_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_user_files(tmp_path)
    odd = os.fsdecode(b"d\xff")
    Path("data").rename(odd)
    data, ours = ("--data", odd), OURS.split()[:-2]
    succeed("plan", *ours, *data, "--macs", "0.6", "--out", "p.json")
    succeed("convert", *ours, *data, "--macs", "0.6", "--out", "o", "--save-config", "r.yaml")
    succeed("convert", *ours, *data, "--max-drop", "90", "--val", odd, "--out", "d")
    succeed("evaluate", *ours, *data)
    succeed("distill", "o", *BACK.split(), *data, "--epochs", "1", "--out", "p")
    succeed("report", "p", *BACK.split(), *data)
    succeed("sweep", *ours, *data, "--points", "2", "--out", "s")
    succeed("run", "r.yaml", "--model", "model.py:build", "--out", "r", "--set", "distill.epochs=1")
    succeed("export", "o", "--model", "model.py:build", *data, "--onnx", "o.onnx")
    for page in ("p/report.html", "s/report.html", "r/report.html"):
        assert "d\\udcff" in Path(page).read_text(encoding="utf-8")


def test_a_folder_says_nothing_of_the_machine_it_was_made_on(tmp_path):
    write_user_files(tmp_path)
    (tmp_path / "deep").mkdir()
    small = converted(user_network(tmp_path, weights=True), (3, SIZE, SIZE), body=("channel", 3))
    for folder in (tmp_path / "art", tmp_path / "deep" / "art"):
        save(small, folder, provenance={"data": str(tmp_path / "photos"), "all": [str(tmp_path)]})
        text = (folder / "convswap.json").read_text()
        assert str(tmp_path) not in text
        assert json.loads(text)["record"]["base"]["weights"] == "weights.safetensors"
        assert json.loads(text)["provenance"]["data"] == "photos"


# --- being stopped --------------------------------------------------------------------------

STOPPED = """
import sys, time
from unittest import mock
from convswap import cli
def wait(*args, **kwargs):
    print("waiting", file=sys.__stdout__, flush=True)
    time.sleep(60)
sys.argv = ["convswap", "plan", "json:loads", "--macs", "0.5", "--out", "plan.json"]
with mock.patch("convswap.inputs.networks._run_factory", wait):
    cli.main()
"""


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_command_that_is_stopped_cleans_up_and_says_how_to_go_on(number, nursery, tmp_path):
    run = nursery.start(STOPPED, cwd=tmp_path)
    assert run.says("waiting")
    time.sleep(0.1)
    run.send(number)
    done = run.finished()
    assert done.code == 128 + number
    assert "Traceback" not in done.err
    assert f"stopped by {number.name}" in done.err
    assert names(tmp_path) == []


@posix
def test_an_interrupt_while_the_command_line_is_imported_ends_it_without_a_word(
    monkeypatch, capsys
):
    class Interrupted:
        def find_spec(self, name: str, *_: object) -> None:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.delitem(sys.modules, "convswap.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 128 + signal.SIGINT
    assert capsys.readouterr() == ("", "")


@posix
def test_a_stop_that_a_library_turns_into_its_own_error_is_one():
    def stopped() -> None:  # as the import of compiled code is
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    with pytest.raises(SystemExit) as stop, ending():
        stopped()
    assert stop.value.code == 128 + signal.SIGTERM


@posix
def test_what_was_started_to_outlive_its_terminal_does(nursery, tmp_path):
    ignoring = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"  # as `nohup` does
    run = nursery.start(ignoring + STOPPED, cwd=tmp_path)
    assert run.says("waiting")
    run.send(signal.SIGHUP)
    time.sleep(0.1)
    assert run.running
    run.end()
