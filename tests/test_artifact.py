"""Artifacts: the same network again on any machine, and nothing of a hostile folder is run."""

from __future__ import annotations

import json
import os
import pickle
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from helpers import image_batches, plan_for, tiny
from outer import (
    NARROW,
    SIZE,
    converted,
    names,
    narrow_resnet,
    tree,
    user_network,
    write_user_files,
)
from safetensors.torch import load_file, save_file
from torch import nn

from convswap import ConvswapError, convert, distill, load, record_of, save
from convswap.inputs.checkpoints import load_weights_

ANOTHER = """
import sys
import torch
from convswap import load, open_model

model = open_model("model.py:build") if sys.argv[1] == "user" else None
images = torch.load("images.pt", weights_only=True)
with torch.no_grad():
    torch.save(load("art", model)(images), "found.pt")
"""


@pytest.fixture(scope="module")
def resnet():
    """A converted timm network, and images it reads."""
    small = converted(narrow_resnet(), (3, 32, 32), layer1__0__conv1=("spatial", 2),
                      layer2__0__conv2=("bottleneck", 9))  # fmt: skip
    return small, image_batches((3, 32, 32), count=1, size=2)[0]


@pytest.fixture
def folder(resnet, tmp_path):
    return save(resnet[0], tmp_path / "art", provenance={"note": "hello"})


def described(folder: Path) -> dict:
    return json.loads((folder / "convswap.json").read_text())


def rewrite(folder: Path, change) -> None:
    """Change `convswap.json` as an attacker would."""
    content = described(folder)
    del content["digest"], content["tensors"]
    change(content)
    (folder / "convswap.json").write_text(json.dumps(content))


def reweigh(folder: Path, change) -> None:
    """Change the tensors as an attacker would."""
    rewrite(folder, lambda content: None)
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


# --- there and back -------------------------------------------------------------------------


def test_a_timm_network_comes_back_as_an_instance_of_its_class(resnet, folder):
    small, images = resnet
    again = load(folder)
    assert type(again) is timm.models.resnet.ResNet
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(images), small(images))
        assert torch.equal(again.forward_features(images), small.forward_features(images))
    assert again.num_classes == 4


def test_the_record_comes_back(resnet, folder):
    assert record_of(load(folder)) == record_of(resnet[0])


def test_saving_again_gives_the_same_files(folder, tmp_path):
    save(load(folder), tmp_path / "again", provenance={"note": "hello"})
    assert tree(tmp_path / "again") == tree(folder)


def test_the_folder_holds_weights_a_description_and_a_card(folder):
    assert names(folder) == ["README.md", "config.json", "convswap.json", "model.safetensors"]
    assert described(folder)["provenance"] == {"note": "hello"}
    assert described(folder)["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("kind", ["timm", "user"])
def test_another_process_computes_the_same_to_the_bit(kind, resnet, nursery, tmp_path):
    if kind == "timm":
        small, images = resnet
    else:
        dense = user_network(write_user_files(tmp_path), weights=True)
        small = converted(dense, (3, SIZE, SIZE), body=("tucker", (3, 3)))
        images = image_batches((3, SIZE, SIZE), count=1)[0]
    save(small, tmp_path / "art")
    torch.save(images, tmp_path / "images.pt")
    done = nursery.run(ANOTHER, kind, cwd=tmp_path)
    assert done.code == 0, done.err
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "found.pt", weights_only=True), small(images))


def test_code_of_the_user_needs_its_architecture(tmp_path):
    dense = user_network(write_user_files(tmp_path), weights=True)
    small = converted(dense, (3, SIZE, SIZE), body=("channel", 3))
    save(small, tmp_path / "art")
    with pytest.raises(ConvswapError, match=r"--model file\.py:factory"):
        load(tmp_path / "art")
    fresh = user_network(tmp_path)
    untouched = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    again = load(tmp_path / "art", fresh)
    images = torch.randn(2, 3, SIZE, SIZE)
    assert torch.equal(again(images), small(images))
    assert all(torch.equal(untouched[name], t) for name, t in fresh.state_dict().items())


def test_an_architecture_of_other_shapes_is_refused(tmp_path):
    dense = user_network(write_user_files(tmp_path), weights=True)
    save(converted(dense, (3, SIZE, SIZE), body=("channel", 3)), tmp_path / "art")
    other = type(dense)(width=9)
    with pytest.raises(ConvswapError, match="another shape"):
        load(tmp_path / "art", other)


def test_a_network_converted_twice_carries_both_plans(tmp_path):
    dense = user_network(write_user_files(tmp_path), weights=True)
    size = (3, SIZE, SIZE)
    once = converted(dense, size, body=("channel", 4))
    twice = converted(once, size, body__reduce=("separable", 1), stem=("spatial", 2))
    save(twice, tmp_path / "art")
    again = load(tmp_path / "art", user_network(tmp_path))
    assert [len(plan.choices) for plan in record_of(again).plans] == [1, 2]
    images = torch.randn(2, *size)
    assert torch.equal(again(images), twice(images))


def test_a_loaded_network_can_be_converted_and_distilled(folder, resnet, tmp_path):
    again = load(folder)
    images = resnet[1]
    more = converted(again, (3, 32, 32), conv1=("channel", 4))
    small = distill(more, narrow_resnet(), [images], epochs=1)
    save(small, tmp_path / "more")
    assert torch.equal(load(tmp_path / "more")(images), small(images))


def test_a_timm_network_made_without_convswap_is_recognised(tmp_path):
    dense = timm.create_model("resnet18", num_classes=7).eval()
    small = converted(dense, (3, 32, 32), layer1__0__conv1=("spatial", 8))
    save(small, tmp_path / "art")
    base = described(tmp_path / "art")["record"]["base"]
    assert base["name"] == "timm:resnet18"
    assert base["kwargs"] == {"num_classes": 7}
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(load(tmp_path / "art")(images), small(images))


@pytest.mark.parametrize("change", ["arguments", "surgery", "code"])
def test_a_timm_network_that_its_name_does_not_rebuild_is_the_users_code(change, tmp_path):
    dense = timm.create_model("resnet18", **(NARROW if change == "arguments" else {})).eval()
    if change == "surgery":
        dense.act1 = nn.SiLU()
    elif change == "code":  # the same layers
        dense.forward_head = partial(dense.forward_head, pre_logits=True)
    small = converted(dense, (3, 32, 32), layer1__0__conv1=("spatial", 2))
    save(small, tmp_path / "art")
    assert described(tmp_path / "art")["record"]["base"]["name"] == "code"
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(load(tmp_path / "art", dense)(images), small(images))


class Tied(nn.Module):
    """An encoder and a decoder that share a weight, and a norm that stands under two names."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm2d(8)
        self.alias = self.norm

    def forward(self, x):
        x = self.alias(self.norm(self.body(x))).mean((2, 3))
        return self.second(torch.tanh(self.first(x)))


def test_a_timm_network_that_overflows_on_noise_keeps_its_name(tmp_path):
    dense = timm.create_model("resnet18").eval()
    with torch.no_grad():
        for tensor in (dense.conv1.weight, dense.bn1.weight, dense.fc.weight):
            tensor.mul_(1e15)
    small = converted(dense, (3, 32, 32), layer1__0__conv1=("spatial", 8))
    assert not small(torch.randn(1, 3, 32, 32)).isfinite().all()
    save(small, tmp_path / "art")
    assert described(tmp_path / "art")["record"]["base"]["name"] == "timm:resnet18"


def test_tied_parameters_come_back_tied(tmp_path):
    small = converted(Tied().eval(), (3, 8, 8), body=("channel", 3))
    save(small, tmp_path / "art")
    again = load(tmp_path / "art", Tied())
    assert again.second.weight is again.first.weight
    assert again.alias is again.norm
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(again(images), small(images))
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in small.parameters())


def test_a_convolution_under_two_names_comes_back_as_one(tmp_path):
    model, size = tiny("two paths")
    small = converted(model, size, block__0=("channel", 3))
    save(small, tmp_path / "art")
    again = load(tmp_path / "art", tiny("two paths")[0])
    assert again.alias is again.block[0]
    images = torch.randn(2, *size)
    assert torch.equal(again(images), small(images))


class Versioned(nn.Sequential):
    """Reads what does not say its version as an old one's (torchvision's mnasnet)."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version") != 2:
            raise ValueError("version should be 2")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_weights_are_of_the_version_of_the_network_that_reads_them(tmp_path):
    model = nn.Sequential(Versioned(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3)))
    small = converted(model, (3, 8, 8), **{"0__1": ("channel", 2)})
    save(small, tmp_path / "art")
    restored = load(tmp_path / "art", model)
    images = image_batches((3, 8, 8), count=1, size=2)[0]
    assert torch.equal(restored(images), small(images))
    load_weights_(small, tmp_path / "art" / "model.safetensors")
    assert torch.equal(restored(images), small(images))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_comes_back(dtype, tmp_path):
    model, size = tiny("residual")
    small = converted(model, size, first=("channel", 3)).to(dtype)
    save(small, tmp_path / "art")
    again = load(tmp_path / "art", model)
    assert {p.dtype for p in again.parameters()} == {dtype}


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"])
def test_a_table_of_rare_numbers_comes_back(dtype, tmp_path):
    def with_table(value: int) -> nn.Module:
        model, _ = tiny("residual")
        model.register_buffer("table", torch.full((3,), value).to(getattr(torch, dtype)))
        return model

    small = converted(with_table(2), tiny("residual")[1], first=("channel", 3))
    save(small, tmp_path / "out")
    again = load(tmp_path / "out", with_table(0))
    assert again.table.dtype == small.table.dtype
    assert again.table.tolist() == [2, 2, 2]


# --- saving ---------------------------------------------------------------------------------


def test_a_network_that_was_not_converted_is_refused(tmp_path):
    with pytest.raises(ConvswapError, match="not made by convert"):
        save(tiny("residual")[0], tmp_path / "art")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_kept_unless_forced(resnet, tmp_path):
    (tmp_path / "art").mkdir()
    (tmp_path / "art" / "precious").write_text("data")
    with pytest.raises(ConvswapError, match="exists"):
        save(resnet[0], tmp_path / "art")
    assert (tmp_path / "art" / "precious").read_text() == "data"
    with pytest.raises(ConvswapError, match="something else"):
        save(resnet[0], tmp_path / "art", force=True)
    assert names(tmp_path / "art") == ["precious"]


def test_nothing_is_left_when_writing_fails(resnet, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="full"):
        save(resnet[0], tmp_path / "art")
    assert list(tmp_path.iterdir()) == []


def test_an_old_artifact_survives_when_writing_fails(folder, resnet, monkeypatch):
    before = tree(folder.parent)

    def full(*args, **kwargs):
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="full"):
        save(resnet[0], folder, force=True)
    assert tree(folder.parent) == before


def test_provenance_that_is_no_json_leaves_nothing(resnet, tmp_path):
    with pytest.raises(Exception):  # noqa: B017, PT011 - pydantic's or json's own
        save(resnet[0], tmp_path / "art", provenance={"thing": object()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_everyone_the_umask_allows_can_read_it(resnet, tmp_path):
    before = os.umask(0o022)
    try:
        save(resnet[0], tmp_path / "art")
    finally:
        os.umask(before)
    assert (tmp_path / "art").stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "art").iterdir()} == {0o644}


# --- damaged and hostile folders ------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "hello", "{", "[]", "3", "null", "[" * 100_000, "\x00"])
def test_a_description_that_is_no_description_is_refused(content, folder):
    (folder / "convswap.json").write_text(content)
    with pytest.raises(ConvswapError, match=r"convswap\.json"):
        load(folder)


def test_a_description_in_other_bytes_is_refused(folder):
    (folder / "convswap.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ConvswapError, match=r"convswap\.json"):
        load(folder)


@pytest.mark.parametrize("name", ["convswap.json", "model.safetensors"])
def test_a_missing_file_is_named(name, folder):
    (folder / name).unlink()
    with pytest.raises(ConvswapError, match=name):
        load(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConvswapError, match="nowhere"):
        load(tmp_path / "nowhere")


def _record(**changes):
    return lambda content: content["record"].update(changes)


def _base(**changes):
    return lambda content: content["record"]["base"].update(changes)


def _plan(**changes):
    return lambda content: content["record"]["plans"][0].update(changes)


def _choice(**changes):
    return lambda content: content["record"]["plans"][0]["choices"][0].update(changes)


HOSTILE = {
    "a newer format": lambda content: content.update(format=2),
    "a format of words": lambda content: content.update(format="one"),
    "no format": lambda content: content.pop("format"),
    "no record": lambda content: content.pop("record"),
    "an unknown entry": lambda content: content.update(code="import os"),
    "an unknown entry of the record": _record(hook="x"),
    "an unknown entry of the base": _base(source="x"),
    "an unknown entry of the plan": _plan(callback="x"),
    "an unknown entry of a choice": _choice(factory="x"),
    "a base that is a path": _base(name="../../x"),
    "a base that is a file of code": _base(name="model.py:build"),
    "a base that is a module": _base(name="os:system"),
    "a base from a hub": _base(name="timm:hf-hub:someone/something"),
    "a base from a folder": _base(name="timm:local-dir:/tmp"),
    "an unknown base": _base(name="timm:resnet81"),
    "a base that is code": _base(name="code"),
    "another base": _base(name="timm:resnet26"),
    "a checkpoint path": _base(kwargs=NARROW | {"checkpoint_path": "/etc/passwd"}),
    "pretrained weights": _base(kwargs=NARROW | {"pretrained": True}),
    "a pretrained configuration": _base(kwargs=NARROW | {"pretrained_cfg": {"file": "/x"}}),
    "an overlay": _base(kwargs=NARROW | {"pretrained_cfg_overlay": {"url": "http://x"}}),
    "a huge argument": _base(kwargs=NARROW | {"num_classes": 1 << 60}),
    "an argument of code": _base(kwargs=NARROW | {"act_layer": {"a": 1}}),
    "an unknown argument": _base(kwargs=NARROW | {"nothing": 1}),
    "a huge input size": _record(preprocess={"input_size": [3, 1 << 40, 32]}),
    "a negative input size": _record(preprocess={"input_size": [3, -1, 32]}),
    "a layer that is not there": _choice(site="layer9.conv"),
    "a layer that is no convolution": _choice(site="bn1"),
    "a layer with a dunder name": _choice(site="__class__"),
    "an empty layer name": _choice(site=""),
    "an unknown form": _choice(form="eval"),
    "a rank of zero": _choice(rank=0),
    "a huge rank": _choice(rank=1 << 40),
    "a rank of a pair": _choice(rank=[1, 1]),
    "a rank of words": _choice(rank="all"),
    "a layer twice": lambda content: content["record"]["plans"][0]["choices"].append(
        content["record"]["plans"][0]["choices"][0]),
    "a plan twice": lambda content: content["record"]["plans"].append(
        content["record"]["plans"][0]),
    "no plan": _record(plans=[]),
}  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_description_is_refused_in_one_line(change, folder):
    rewrite(folder, change)
    with pytest.raises(ConvswapError) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


DAMAGED = {
    "a missing tensor": (lambda state: state.pop("fc.bias"), r"missing.*fc\.bias"),
    "an unknown tensor": (lambda state: state.update(more=torch.zeros(1)), "unknown.*more"),
    "a wrong shape": (
        lambda state: state.update({"fc.bias": torch.zeros(5)}), r"another shape.*fc\.bias"),
    "a scalar": (
        lambda state: state.update({"fc.bias": torch.zeros(())}), r"another shape.*fc\.bias"),
    "a wrong kind of number": (
        lambda state: state.update({"fc.bias": torch.zeros(4, dtype=torch.int64)}), r"fc\.bias"),
    "NaN": (
        lambda state: state.update({"fc.bias": torch.full((4,), torch.nan)}), r"NaN.*fc\.bias"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), DAMAGED.values(), ids=DAMAGED.keys())
def test_tensors_that_do_not_fit_are_named(change, words, folder):
    reweigh(folder, change)
    with pytest.raises(ConvswapError, match=words):
        load(folder)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_a_truncated_weights_file_is_refused(share, folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ConvswapError, match=r"cannot read .*model\.safetensors"):
        load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "pytorch_model.bin", "x.pkl"])
def test_a_pickle_in_the_folder_is_never_read(name, folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "pwned"),))

    (folder / name).write_bytes(pickle.dumps(Trap()))
    if name == "model.safetensors":
        with pytest.raises(ConvswapError):
            load(folder)
    else:
        assert load(folder).num_classes == 4
    assert not (tmp_path / "pwned").exists()


def test_code_in_the_folder_is_never_run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    for name in ("timm.py", "model.py", "__init__.py", "convswap_plugin.py"):
        (folder / name).write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')")
    load(folder)
    assert not (tmp_path / "pwned").exists()


def test_no_weights_are_fetched_to_load(folder, monkeypatch):
    asked = []
    real = timm.create_model

    def create_model(name, pretrained=False, **kwargs):
        asked.append(pretrained)
        return real(name, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, "create_model", create_model)
    load(folder)
    assert asked
    assert not any(asked)


def test_a_converted_network_fitted_to_images_comes_back_too(tmp_path):
    model, size = tiny("residual")
    batches = image_batches(size)
    plan = plan_for(model, size, {"first": ("separable", 1), "second": ("blueprint", 1)},
                    fit="corrected")  # fmt: skip
    small = convert(model, plan, batches)
    save(small, tmp_path / "art")
    again = load(tmp_path / "art", tiny("residual")[0])
    assert torch.equal(again(batches[0]), small(batches[0]))
