"""Weights as people have them: every wrapping is read, and what is no weights is one line."""

from __future__ import annotations

import argparse
import collections
import datetime
import fractions
import functools
import gzip
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from outer import write_user_files
from safetensors.torch import load_file, save_file

from convswap import ConvswapError, open_model
from convswap.inputs.as_trained import read_as_trained
from convswap.record import Preprocess, record_of


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    return write_user_files(tmp_path_factory.mktemp("user"))


@pytest.fixture
def state(user):
    return load_file(user / "weights.safetensors")


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


class Settings(dict):
    """As trainers have them: entries, and attributes that nobody else knows."""

    def __init__(self, **entries):
        super().__init__(entries)
        self.frozen = True


def whole(state):
    """A network with these weights, of a buffer that is not kept too."""
    network = torch.nn.Module()
    network.register_buffer("grid", torch.ones(2), persistent=False)
    for key, value in state.items():
        within = network
        *folders, name = key.split(".")
        for folder in folders:
            within.add_module(folder, getattr(within, folder, torch.nn.Module()))
            within = getattr(within, folder)
        if value.is_floating_point() and "running" not in name:
            within.register_parameter(name, torch.nn.Parameter(value))
        else:
            within.register_buffer(name, value)
    return network


def traced(network):
    """A network as torch.fx writes it."""
    graph = torch.fx.Graph()
    for key in network.state_dict():
        graph.get_attr(key)
    graph.output(None)
    return torch.fx.GraphModule(network, graph)


def opened(user, path, **options):
    return open_model(f"{user / 'model.py'}:build", weights=path, **options).state_dict()


WRAPPED = {
    "timm's train.py": lambda s: {
        "epoch": 3, "arch": "x", "state_dict": s, "args": argparse.Namespace(lr=0.1)},
    "Lightning": lambda s: {"state_dict": prefixed("model.", s), "global_step": 7},
    "parallel and compiled": lambda s: prefixed("module._orig_mod.", s),
    "compiled in part": lambda s: {k.replace("body.", "body._orig_mod."): v for k, v in s.items()},
    "checkpointed and sharded in part": lambda s: {
        k.replace("body.", "body._fsdp_wrapped_module._checkpoint_wrapped_module."): v
        for k, v in s.items()},
    "torch.optim.swa_utils.AveragedModel": lambda s: {
        "n_averaged": torch.tensor(3), **prefixed("module.", s)},
    "settings under a name of weights": lambda s: {"params": {"lr": 0.1}, "weights": s},
    "averaged weights that are not there yet": lambda s: {"state_dict": s, "ema": {}},
    "beside numbers of NumPy, dates and paths": lambda s: {
        "state_dict": s, "best": np.float64(0.9), "curve": np.arange(3),
        "args": argparse.Namespace(out=Path("runs")), "at": datetime.date(2024, 2, 29),
        "took": datetime.timedelta(hours=3), "random": np.random.get_state()},
    "beside what only code could make": lambda s: {
        "state_dict": s, "cut": fractions.Fraction(1, 2), "loss": torch.nn.functional.mse_loss,
        "history": collections.defaultdict(list, {"loss": [0.1]}), "at": Settings(rate=0.1),
        "last": collections.deque([0.1, 0.2], 2),
        "make": functools.partial(torch.nn.LayerNorm, eps=1e-6),
        "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)},
    "saved whole": lambda s: {"epoch": 3, "model": whole(s)},
    "saved whole, and parallel": lambda s: torch.nn.DataParallel(whole(s)),
    "saved whole, and compiled": lambda s: {"net": torch.compile(whole(s)), "epoch": 3},
    "saved whole, as torch.fx has it": lambda s: traced(whole(s)),
    "beside losses and metrics": lambda s: {
        "state_dict": {**prefixed("net.", s), "loss.weight": torch.ones(4)}},
    "beside another network, under names": lambda s: {
        **prefixed("module.encoder.", s), "module.decoder.body.weight": torch.ones(2)},
    "any prefix": lambda s: prefixed("net.backbone.", s),
    "nested": lambda s: {"model": {"state_dict": prefixed("module.", s)}},
    "in a list": lambda s: [s, 3],
    "saved whole, in a list": lambda s: [whole(s), {"lr": 0.1}],
    "profiled": lambda s: {
        **s, "total_ops": torch.zeros(1), "body.total_params": torch.zeros(1)},
    "under a name of its own": lambda s: {"generator": {"net": s}, "step": 4},
    "beside plain numbers": lambda s: {**s, "epoch": 3},
    "of NumPy's arrays": lambda s: {k: v.numpy() for k, v in s.items()},
    "of NumPy's arrays by columns, beside others": lambda s: {
        "epoch": np.arange(3),
        "model": {k: np.copy(v.numpy(), order="F") for k, v in s.items()}},
    "of lists": lambda s: {"state_dict": {k: v.tolist() for k, v in s.items()}, "loss": [0.1]},
    "half precision": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
    "before batches were counted": lambda s: {
        k: v for k, v in s.items() if "num_batches" not in k},
}  # fmt: skip


@pytest.mark.parametrize("name", ["w.bin", "W.SAFETENSORS", "w.safetensors", "w"])
@pytest.mark.parametrize("write", [save_file, torch.save], ids=["safetensors", "torch"])
def test_the_kind_of_a_file_follows_from_what_is_in_it(name, write, user, state, tmp_path):
    write(state, tmp_path / name)
    torch.testing.assert_close(opened(user, tmp_path / name), state, rtol=0, atol=0)


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
def test_a_state_dict_is_found_in_its_wrapping(wrap, user, state, tmp_path):
    torch.save(wrap(state), tmp_path / "w.pth")
    found = opened(user, tmp_path / "w.pth")
    assert found["body.weight"].dtype == torch.float32
    torch.testing.assert_close(found, state, rtol=1e-3, atol=1e-3)


def test_an_archive_of_arrays_is_read(user, state, tmp_path):
    np.savez(tmp_path / "w.npz", **{key: value.numpy() for key, value in state.items()})
    torch.testing.assert_close(opened(user, tmp_path / "w.npz"), state, rtol=0, atol=0)
    np.savez(tmp_path / "w.npz", objects=np.array([{}]))
    with pytest.raises(ConvswapError, match=r"cannot read weights .*w\.npz"):
        opened(user, tmp_path / "w.npz")


@pytest.mark.parametrize(
    "name", ["state_dict_ema", "model_ema", "ema", "params_ema", "swa_state_dict"]
)
def test_averaged_weights_are_taken_unless_told_otherwise_and_it_is_said(
    name, user, state, tmp_path
):
    averaged = {key: value + 1 for key, value in state.items()}
    torch.save({"state_dict": state, name: averaged}, tmp_path / "w.pth")
    said = []
    found = opened(user, tmp_path / "w.pth", note=said.append)
    assert torch.equal(found["body.weight"], averaged["body.weight"])
    assert len(said) == 1
    assert name in said[0]
    found = opened(user, tmp_path / "w.pth", averaged=False)
    assert torch.equal(found["body.weight"], state["body.weight"])


AVERAGES = {  # what a file holds of trained and of averaged weights; where the latter are found
    "torchvision's train.py": (lambda trained, averaged: {
        "model": trained,
        "model_ema": {"n_averaged": torch.tensor(3)} | prefixed("module.", averaged)}, "model_ema"),
    "mmengine": (lambda trained, averaged: {
        "ema_state_dict": {"steps": torch.tensor(3)} | prefixed("module.", trained),
        "state_dict": averaged}, "state_dict"),
    "Lightning's WeightAveraging": (lambda trained, averaged: {
        "current_model_state": prefixed("net.", trained), "state_dict": prefixed("net.", averaged),
        "averaging_state": {"n_averaged": torch.tensor(3)}}, "state_dict"),
    "Lightning's StochasticWeightAveraging": (lambda trained, averaged: {
        "state_dict": prefixed("net.", trained), "callbacks": {"StochasticWeightAveraging": {
            "n_averaged": 3, "average_model_state": prefixed("net.", averaged)}}},
        "callbacks.StochasticWeightAveraging.average_model_state"),
    "a callback of Lightning": (lambda trained, averaged: {
        "state_dict": prefixed("net.", trained), "callbacks": {
            "ModelCheckpoint": {"best_model_path": "x"}, "EMACallback{'decay': 0.99}": {
                "decay": 0.99, "ema_state_dict": prefixed("net.", averaged)}}},
        "callbacks.EMACallback{'decay': 0.99}.ema_state_dict"),
}  # fmt: skip


@pytest.mark.parametrize(("write", "name"), AVERAGES.values(), ids=AVERAGES.keys())
def test_averaged_weights_are_found_where_trainers_put_them(write, name, user, state, tmp_path):
    averaged = {key: value + 1 for key, value in state.items()}
    torch.save(write(state, averaged), tmp_path / "w.pth")
    said = []
    found = opened(user, tmp_path / "w.pth", note=said.append)
    assert torch.equal(found["body.weight"], averaged["body.weight"])
    assert [f"({name}; --no-ema" in line for line in said] == [True]
    found = opened(user, tmp_path / "w.pth", averaged=False)
    assert torch.equal(found["body.weight"], state["body.weight"])


def test_parameters_averaged_by_themselves_come_with_the_buffers_beside_them(user, state, tmp_path):
    buffers = {key: value for key, value in state.items() if "running" in key}
    assert buffers
    averaged = {key: value + 1 for key, value in state.items() if key not in buffers}
    shadow = {"decay": 0.9, "shadow": prefixed("module.", averaged)}
    torch.save({"state_dict": prefixed("net.", state), "ema": shadow}, tmp_path / "w.pth")
    found = opened(user, tmp_path / "w.pth")
    assert all(torch.equal(found[key], value) for key, value in (averaged | buffers).items())


def test_averaged_weights_beside_the_others_under_names_of_their_own_are_told_of(
    user, state, tmp_path
):
    """As latent diffusion keeps them: without dots."""
    averaged = {f"model_ema.{key.replace('.', '')}": value + 1 for key, value in state.items()}
    torch.save({"state_dict": prefixed("model.", state) | averaged}, tmp_path / "w.ckpt")
    said = []
    found = opened(user, tmp_path / "w.ckpt", note=said.append)
    assert torch.equal(found["body.weight"], state["body.weight"])
    assert ["averaged weights of other names among them" in line for line in said] == [True]


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"decay": 0.99, "shadow_params": s}])
def test_averaged_weights_without_names_are_passed_over_and_it_is_said(wrap, user, state, tmp_path):
    averaged = [value + 1 for value in state.values()]
    torch.save({"state_dict": state, "ema": wrap(averaged)}, tmp_path / "w.pth")
    said = []
    found = opened(user, tmp_path / "w.pth", note=said.append)
    assert torch.equal(found["body.weight"], state["body.weight"])
    assert ["no names (ema)" in line for line in said] == [True]


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "model_final.pth",
                                  "model_best.pth.tar"])  # fmt: skip
def test_the_only_weights_of_a_folder_are_taken_and_it_is_said(name, user, state, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (save_file if name.endswith(".safetensors") else torch.save)(state, tmp_path / name)
    said = []
    found = opened(user, tmp_path, note=said.append)
    assert torch.equal(found["body.weight"], state["body.weight"])
    assert said == [f"{tmp_path}: {name} is taken"]


@pytest.mark.parametrize(("name", "others"), [
    ("diffusion_pytorch_model.safetensors", ["diffusion_pytorch_model.fp16.safetensors",
                                             "diffusion_pytorch_model.bin"]),
    ("open_clip_model.safetensors", ["open_clip_pytorch_model.bin"]),
])  # fmt: skip
def test_of_the_same_weights_in_several_formats_one_is_taken(name, others, user, state, tmp_path):
    save_file(state, tmp_path / name)
    for other in others:
        (tmp_path / other).touch()
    said = []
    assert torch.equal(
        opened(user, tmp_path, note=said.append)["body.weight"], state["body.weight"]
    )
    assert said == [f"{tmp_path}: {name} is taken"]


@pytest.mark.parametrize(("names", "there"), [
    ([], "nothing"), (["config.json"], "config.json"),
    (["a.json", "last.pth", "best.pth"], r"best\.pth, last\.pth"),
    ([f"{n}.bin" for n in range(9)], r"0\.bin, .*, 4\.bin, \.\.\."),
])  # fmt: skip
def test_a_folder_of_no_weights_or_several_is_told_in_one_line(names, there, user, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(
        ConvswapError, match=rf"looked for model\.safetensors.*; there is {there} -"
    ):
        opened(user, tmp_path)


def test_a_folder_of_shards_under_a_name_of_its_own_is_read(user, state, tmp_path):
    places = {key: f"net-{index % 2}.safetensors" for index, key in enumerate(state)}
    for file in set(places.values()):
        save_file({k: v for k, v in state.items() if places[k] == file}, tmp_path / file)
    index = tmp_path / "net.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    for path in (tmp_path, index):
        assert torch.equal(opened(user, path)["body.weight"], state["body.weight"])


class Runs:
    """What runs a function when it is unpickled."""

    def __init__(self, function, *given):
        self.made = function, given

    def __reduce__(self):
        return self.made


def test_nothing_that_a_checkpoint_brings_along_is_run(user, state, tmp_path):
    mark = tmp_path / "mark"
    for harm in (Runs(open, str(mark), "w"), Runs(exec, f"open({str(mark)!r}, 'w')")):
        torch.save({"state_dict": state, "harm": harm}, tmp_path / "w.pth")
        opened(user, tmp_path / "w.pth")
    torch.save({"state_dict": state, "harm": Runs(os.mkdir, str(mark))}, tmp_path / "w.pth")
    with pytest.raises(ConvswapError, match=r"w\.pth holds posix\.mkdir - save its state_dict"):
        opened(user, tmp_path / "w.pth")
    assert not mark.exists()


def test_a_network_that_holds_itself_is_read_no_further_than_it_goes(user, tmp_path):
    network = torch.nn.Module()
    network.within, network.again = network, network
    torch.save(network, tmp_path / "w.pth")
    with pytest.raises(ConvswapError, match="no state_dict"):
        opened(user, tmp_path / "w.pth")


def zipped(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(f"archive/{name}", b"")


NO_CHECKPOINTS = {
    "a page": (
        lambda path: path.write_text("<!DOCTYPE html>\n<html></html>"), "text .<!DOCTYPE html>."),
    "an answer": (lambda path: path.write_text('{"error": "not found"}'), 'text .."error": "not'),
    "a pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "git lfs pull"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x" * 99)), "packed with gzip"),
    "zip": (lambda path: zipped(path, "w.pth"), "packed with zip"),
    "TorchScript": (
        lambda path: zipped(path, "constants.pkl", "data.pkl"), "a TorchScript program"),
    "exported": (lambda path: zipped(path, "archive_format"), "an exported program"),
    "half": (
        lambda path: (torch.save({"a": torch.ones(99)}, path), os.truncate(path, 300)), "cut off"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(("write", "words"), NO_CHECKPOINTS.values(), ids=NO_CHECKPOINTS.keys())
def test_what_is_taken_for_weights_is_named(write, words, suffix, user, tmp_path):
    write(tmp_path / f"w{suffix}")
    with pytest.raises(ConvswapError, match=words):
        opened(user, tmp_path / f"w{suffix}")


@pytest.mark.parametrize("length", [0, -100])
def test_a_checkpoint_of_old_that_is_cut_off_is_named(length, user, tmp_path):
    torch.save({"a": torch.ones(99)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    os.truncate(tmp_path / "w.pth", length % (tmp_path / "w.pth").stat().st_size)
    with pytest.raises(ConvswapError, match=r"w.pth(: an empty file| is cut off)"):
        opened(user, tmp_path / "w.pth")


def test_a_checkpoint_of_many_processes_is_named(user, tmp_path):
    (tmp_path / "__0_0.distcp").touch()
    with pytest.raises(ConvswapError, match=r"of torch\.distributed - .* dcp_to_torch"):
        opened(user, tmp_path)


@pytest.mark.parametrize("kind", ["one file", "shards"])
def test_a_folder_of_safetensors_is_read(kind, user, state, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    if kind == "one file":
        save_file(state, tmp_path / "model.safetensors")
    else:
        places = {key: f"model-{index % 2}.safetensors" for index, key in enumerate(state)}
        for file in set(places.values()):
            save_file({k: v for k, v in state.items() if places[k] == file}, tmp_path / file)
        index = json.dumps({"weight_map": places})
        (tmp_path / "model.safetensors.index.json").write_text(index)
    found = opened(user, tmp_path)
    assert all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": {"a": "../x"}}', "[" * 10_000,
                                     '{"weight_map": {"a": 3}}',
                                     '{"weight_map": {"a": "x", "a": "y"}}'])  # fmt: skip
def test_an_index_that_is_none_is_refused(content, user, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ConvswapError, match="index"):
        opened(user, tmp_path)


ODD = {
    "integer keys": (lambda s: dict(enumerate(s.values())), "words, not 0"),
    "a sparse tensor": (lambda s: s | {"head.bias": s["head.bias"].to_sparse()}, "sparse"),
    "a complex tensor": (lambda s: s | {"head.bias": s["head.bias"].cfloat()}, "complex"),
    "a tensor without values": (
        lambda s: s | {"head.bias": s["head.bias"].to("meta")}, "without values"),
    "two names for one": (
        lambda s: s | {"_orig_mod.head.bias": s["head.bias"]}, r"two tensors .* head\.bias"),
    "whole numbers": (lambda s: s | {"head.bias": s["head.bias"].int()}, "1 of another type"),
    "a value too large": (lambda s: s | {"head.bias": torch.full((4,), 1e38)}, "too large"),
    "a negative variance": (
        lambda s: s | {"norm.running_var": -s["norm.running_var"]}, "negative variances"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), ODD.values(), ids=ODD.keys())
def test_what_cannot_be_used_is_named_in_one_line(change, words, user, state, tmp_path):
    torch.save(change(state), tmp_path / "w.pth")
    with pytest.raises(ConvswapError, match=words) as caught:
        opened(user, tmp_path / "w.pth")
    assert str(caught.value).isprintable()


def test_a_pipe_is_not_waited_for(user, tmp_path):
    os.mkfifo(tmp_path / "w.safetensors")
    with pytest.raises(ConvswapError, match="not a regular file"):
        opened(user, tmp_path / "w.safetensors")


def test_opening_a_network_leaves_the_callers_random_state_alone(user):
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    open_model(f"{user / 'model.py'}:build", seed=1)
    assert torch.equal(torch.randn(3), expected)


def test_averages_kept_as_shadows_are_taken(user, state, tmp_path):
    averaged = {key: value + 1 for key, value in state.items()}
    torch.save({"model": state, "ema": {"decay": 0.9, "shadow": averaged}}, tmp_path / "w.pth")
    found = opened(user, tmp_path / "w.pth")
    assert torch.equal(found["body.weight"], averaged["body.weight"])


NAMED_AVERAGED = {
    "swa_model": lambda trained, averaged: {"model": trained, "swa_model": averaged},
    "g_ema": lambda trained, averaged: {
        "g": trained, "g_ema": averaged, "d": {"x.w": torch.ones(2)}},
    "ema_model": lambda trained, averaged: {
        "state_dict": prefixed("model.", trained) | prefixed("ema_model.", averaged)},
}  # fmt: skip


@pytest.mark.parametrize(("name", "wrap"), NAMED_AVERAGED.items(), ids=NAMED_AVERAGED.keys())
def test_averaged_weights_are_known_by_a_part_of_their_name(name, wrap, user, state, tmp_path):
    averaged = {key: value + 1 for key, value in state.items()}
    torch.save(wrap(state, averaged), tmp_path / "w.pth")
    said = []
    found = opened(user, tmp_path / "w.pth", note=said.append)
    assert torch.equal(found["body.weight"], averaged["body.weight"])
    assert name in said[0]
    found = opened(user, tmp_path / "w.pth", averaged=False)
    assert torch.equal(found["body.weight"], state["body.weight"])


def test_several_weights_under_unknown_names_are_not_chosen_from(user, state, tmp_path):
    torch.save({"teacher": prefixed("module.", state), "student": state}, tmp_path / "w.pth")
    with pytest.raises(ConvswapError, match="holds several that fit: teacher, student - save one"):
        opened(user, tmp_path / "w.pth")


@pytest.mark.parametrize("other", ["best_model", "teacher", "best_model_wts"])
def test_others_beside_the_weights_of_the_usual_name_are_told_of(other, user, state, tmp_path):
    better = {key: value + 1 for key, value in state.items()}
    torch.save({"model": state, other: better, "epoch": 3}, tmp_path / "w.pth")
    said = []
    found = opened(user, tmp_path / "w.pth", note=said.append)
    assert torch.equal(found["body.weight"], state["body.weight"])
    assert said == [f"{tmp_path / 'w.pth'}: the weights in model are taken; it has others: {other}"]


OTHER_SIZES = {"num_classes=7": {"num_classes": 7}, "in_chans=1": {"in_chans": 1}}


@pytest.mark.parametrize(("argument", "built"), OTHER_SIZES.items(), ids=OTHER_SIZES.keys())
def test_a_size_that_the_network_was_trained_with_is_said(argument, built, tmp_path):
    torch.save(timm.create_model("resnet10t", **built).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ConvswapError, match=rf"--model-arg {argument},"):
        open_model("timm:resnet10t", weights=tmp_path / "w.pth")


KNOWN = Preprocess(input_size=(3, 224, 224), crop_pct=0.95)
TRAINED = {  # arguments of scripts, and what they say of images
    "timm": ({"img_size": 96, "mean": [0.5], "std": [0.1, 0.2, 0.3], "interpolation": "bilinear"},
             {"input_size": (3, 96, 96), "mean": (0.5,) * 3, "std": (0.1, 0.2, 0.3),
              "interpolation": "bilinear"}),
    "timm, of its size": ({"input_size": [3, 64, 32], "img_size": 96, "crop_pct": 0.8},
                          {"input_size": (3, 64, 32), "crop_pct": 0.8}),
    "torchvision": ({"val_crop_size": 112, "val_resize_size": 128, "train_crop_size": 96},
                    {"input_size": (3, 112, 112), "crop_pct": 0.875}),
    "DeiT": ({"input_size": 192, "crop_pct": None}, {"input_size": (3, 192, 192)}),
    "nothing said": ({"img_size": None, "mean": None, "interpolation": "", "lr": 0.1}, {}),
    "of other kinds": ({"img_size": "big", "mean": "grey", "std": [0, 0, 0], "crop_pct": [1],
                        "interpolation": "random", "val_crop_size": {}}, {}),
    "of one channel": ({"mean": [0.5, 0.5], "input_size": [3, 64]}, {}),
}  # fmt: skip


@pytest.mark.parametrize(("args", "changed"), TRAINED.values(), ids=TRAINED.keys())
def test_images_are_read_as_a_script_that_trained_on_them_was_told(args, changed):
    assert read_as_trained(KNOWN, args) == KNOWN.model_copy(update=changed)


@pytest.mark.parametrize("kind", [dict, argparse.Namespace])
def test_a_network_reads_images_as_in_its_training_and_it_is_said(kind, tmp_path):
    network = timm.create_model("resnet10t", num_classes=7)
    args = kind(model="resnet10t", img_size=96, mean=[0.5] * 3, std=None, opt=Settings(lr=1))
    torch.save({"state_dict": network.state_dict(), "args": args}, tmp_path / "w.pth")
    said = []
    model = open_model(
        "timm:resnet10t", weights=tmp_path / "w.pth", kwargs={"num_classes": 7}, note=said.append
    )
    preprocess = record_of(model).preprocess
    assert preprocess.input_size == (3, 96, 96)
    assert preprocess.mean == (0.5, 0.5, 0.5)
    assert said == [
        f"{tmp_path / 'w.pth'}: images are read as in its training, input_size (3, 96, 96), "
        "mean (0.5, 0.5, 0.5)"
    ]
