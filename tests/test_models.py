"""Networks going in: by name, from the user's file, and from the base of an artifact."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from outer import NARROW, user_network, write_user_files
from safetensors.torch import load_file, save_file

from convswap import ConvswapError, Preprocess, open_model, record_of
from convswap.inputs.bases import build_base
from convswap.inputs.networks import (
    declared_preprocess,
    input_channels,
    open_structure,
    open_teacher,
)
from convswap.record import Base


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    return write_user_files(tmp_path_factory.mktemp("user"))


def equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# --- by name --------------------------------------------------------------------------------


def test_a_timm_network_is_built_with_its_arguments():
    model = open_model("timm:resnet18", random_weights=True, kwargs=NARROW)
    assert isinstance(model, timm.models.resnet.ResNet)
    assert model.num_classes == 4
    assert not model.training


def test_a_torchvision_network_is_built_by_name():
    model = open_model("torchvision:squeezenet1_1", random_weights=True, kwargs={"num_classes": 5})
    assert isinstance(model, torchvision.models.SqueezeNet)
    assert record_of(model).base.name == "torchvision:squeezenet1_1"


def test_random_weights_are_those_of_the_seed():
    first, again, other = (
        open_model("timm:resnet18", random_weights=True, seed=seed, kwargs=NARROW)
        for seed in (1, 1, 2)
    )
    assert equal(first, again)
    assert not equal(first, other)


def test_a_network_remembers_where_it_came_from(user):
    model = open_model("timm:resnet18", random_weights=True, seed=5, kwargs=NARROW)
    base = record_of(model).base
    assert (base.name, base.kwargs, base.weights) == ("timm:resnet18", NARROW, "seed:5")
    mine = record_of(user_network(user, weights=True)).base
    assert mine.name == "code"
    assert mine.weights == str((user / "weights.safetensors").resolve())
    assert len(mine.sha256) == 64


def test_without_a_word_on_weights_timm_is_asked_for_pretrained_ones(monkeypatch):
    asked = []

    def create_model(name, pretrained, **kwargs):
        asked.append((name, pretrained, kwargs))
        return torch.nn.Conv2d(3, 3, 3)

    monkeypatch.setattr(timm, "create_model", create_model)
    open_model("timm:resnet18", kwargs={"num_classes": 3})
    open_model("timm:resnet18", random_weights=True)
    assert asked == [("resnet18", True, {"num_classes": 3}), ("resnet18", False, {})]


# --- the user's own code --------------------------------------------------------------------


def test_a_factory_of_a_file_is_called_with_the_arguments(user):
    model = open_model(f"{user / 'model.py'}:build", kwargs={"width": 5})
    assert model.stem.out_channels == 5


def test_a_factory_of_an_installed_module_is_found(user, monkeypatch):
    monkeypatch.syspath_prepend(user)
    assert type(open_model("model:build")).__name__ == "Small"


def test_the_class_of_a_network_can_be_the_factory(user):
    assert type(open_model(f"{user / 'model.py'}:Small")).__name__ == "Small"


@pytest.mark.parametrize(("name", "words"), [
    ("nowhere.py:build", "no such file"),
    ("nowhere_at_all:build", "unknown model"),
    ("timm:nope", r"see `timm\.list_models"),
    ("torchvision:nope", r"see `torchvision\.models\.list_models"),
    ("{}:biuld", r"has no 'biuld' - did you mean build\?"),
    ("{}:nothing", r"has no 'nothing' - it has \w+, \w+"),
    ("{}:torch", "has no function or class 'torch'"),
    ("{}:number", "returned int, not a torch.nn.Module"),
    ("{}:broken", "RuntimeError: the user's own mistake"),
    ("{}:ends", "SystemExit: there is no GPU"),
    ("{}", ":FACTORY, the function"),
    ("", "file.py:factory"),
])  # fmt: skip
def test_a_factory_that_gives_no_network_is_explained(name, words, user):
    with pytest.raises(ConvswapError, match=words):
        open_model(name.format(user / "model.py"))


def test_a_network_that_a_file_builds_as_it_runs_is_taken_as_it_is(tmp_path):
    file = tmp_path / "built.py"
    file.write_text("from torch import nn\nmodel = nn.Sequential(nn.Conv2d(3, 4, 3))\n")
    first, second = (open_model(f"{file}:model") for _ in range(2))
    assert first is not second
    assert isinstance(first, torch.nn.Sequential)
    with pytest.raises(ConvswapError, match="is a network already, and takes no arguments"):
        open_model(f"{file}:model", kwargs={"width": 5})


DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn

@dataclass
class Config:
    width: int = 5

def build():
    return nn.Conv2d(3, Config().width, 3)
"""
BESIDE = "from blocks import WIDTH, build"
IN_TIME = """
def build():
    from blocks import build
    return build()
"""
BLOCKS = """
from torch import nn

WIDTH = 5

def build():
    return nn.Conv2d(3, WIDTH, 3)
"""


@pytest.mark.parametrize("source", [DATACLASS, BESIDE, IN_TIME])
def test_a_file_runs_as_python_would_run_it_and_leaves_the_path_alone(source, tmp_path):
    (tmp_path / "own.py").write_text(source)
    (tmp_path / "blocks.py").write_text(BLOCKS)
    before = [*sys.path]
    assert open_model(f"{tmp_path / 'own.py'}:build").out_channels == 5
    assert sys.path == before


@pytest.mark.parametrize("source", [BESIDE, IN_TIME])
def test_files_of_two_folders_have_what_lies_beside_them(source, tmp_path):
    for width in (3, 5):
        (tmp_path / str(width)).mkdir()
        (tmp_path / str(width) / "own.py").write_text(source)
        (tmp_path / str(width) / "blocks.py").write_text(BLOCKS.replace("5", str(width)))
    widths = [open_model(f"{tmp_path / folder / 'own.py'}:build").out_channels for folder in "353"]
    assert widths == [3, 5, 3]


def test_what_a_file_puts_on_the_path_itself_remains(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "blocks.py").write_text(BLOCKS)
    lines = f"import sys\nsys.path += [{str(tmp_path / 'lib')!r}, {str(tmp_path)!r}]\n"
    (tmp_path / "own.py").write_text(lines + IN_TIME)
    assert open_model(f"{tmp_path / 'own.py'}:build").out_channels == 5
    assert sys.path[-2:] == [str(tmp_path / "lib"), str(tmp_path)]


def test_a_file_that_fails_is_no_module(tmp_path):
    (tmp_path / "fails_at_once.py").write_text("import nowhere_at_all")
    with pytest.raises(ConvswapError, match=r"ModuleNotFoundError: .*nowhere_at_all"):
        open_model(f"{tmp_path / 'fails_at_once.py'}:build")
    assert [name for name in sys.modules if "fails_at_once" in name] == []


# --- weights --------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"state_dict": state, "epoch": 3},
    lambda state: {"model": state},
    lambda state: {f"module.{key}": value for key, value in state.items()},
    lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
], ids=["plain", "state_dict", "model", "parallel", "both"])  # fmt: skip
def test_checkpoints_of_every_common_make_are_read(wrap, user, tmp_path):
    state = load_file(user / "weights.safetensors")
    torch.save(wrap(state), tmp_path / "w.pth")
    model = open_model(f"{user / 'model.py'}:build", weights=tmp_path / "w.pth")
    assert all(torch.equal(model.state_dict()[key], state[key]) for key in state)


def test_a_checkpoint_is_never_unpickled_beyond_tensors(user, tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was run",))

    torch.save({"state_dict": Trap()}, tmp_path / "w.pt")
    with pytest.raises(ConvswapError, match=r"not a checkpoint of plain tensors: .*w\.pt"):
        open_model(f"{user / 'model.py'}:build", weights=tmp_path / "w.pt")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {"a": 3}}, 7])
def test_a_checkpoint_without_a_state_dict_is_refused(content, user, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ConvswapError, match="no state_dict"):
        open_model(f"{user / 'model.py'}:build", weights=tmp_path / "w.pt")


def test_weights_that_do_not_fit_are_counted_and_named(user, tmp_path):
    state = load_file(user / "weights.safetensors")
    del state["head.bias"]
    save_file(state | {"head.weight": torch.zeros(9, 8), "more": torch.zeros(1)},
              tmp_path / "w.safetensors")  # fmt: skip
    with pytest.raises(ConvswapError) as caught:
        open_model(f"{user / 'model.py'}:build", weights=tmp_path / "w.safetensors")
    for words in ("1 missing (head.bias)", "1 unknown (more)", "1 of another shape (head.weight)"):
        assert words in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(value, user, tmp_path):
    state = load_file(user / "weights.safetensors")
    state["body.weight"][0, 0, 0, 0] = value
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ConvswapError, match=r"NaN or infinite: body\.weight"):
        open_model(f"{user / 'model.py'}:build", weights=tmp_path / "w.safetensors")


# --- what a network says of its inputs ------------------------------------------------------


def test_timm_says_how_images_are_read():
    model = timm.create_model("resnet18")
    preprocess = declared_preprocess(model)
    assert preprocess.input_size == (3, 224, 224)
    assert preprocess.mean == model.pretrained_cfg["mean"]
    assert preprocess.interpolation == model.pretrained_cfg["interpolation"]


def test_a_timm_network_of_one_channel_says_one_channel():
    preprocess = declared_preprocess(timm.create_model("resnet18", in_chans=1, **NARROW))
    assert preprocess.input_size[0] == 1
    assert len(preprocess.mean) == len(preprocess.std) == 1


@pytest.mark.parametrize(("said", "size"), [(32, (32, 32)), ([32, 64], (32, 64))])
@pytest.mark.parametrize("opened", [open_model, open_structure])
def test_a_network_built_for_other_images_reads_those(opened, said, size):
    model = opened("timm:test_vit", random_weights=True, kwargs={"img_size": said})
    assert record_of(model).preprocess.input_size == (3, *size)


def test_torchvision_classifiers_read_imagenet():
    preprocess = declared_preprocess(torchvision.models.squeezenet1_1())
    assert preprocess == Preprocess(
        input_size=(3, 224, 224), interpolation="bilinear", crop_pct=0.875
    )


@pytest.mark.parametrize(("name", "read"), [
    ("resnet50", {"crop_pct": 224 / 232}),
    ("inception_v3", {"input_size": (3, 299, 299), "crop_pct": 299 / 342}),
    ("vit_h_14", {"input_size": (3, 518, 518), "interpolation": "bicubic"}),
    ("efficientnet_v2_l", {"mean": (0.5,) * 3, "std": (0.5,) * 3}),
    ("lraspp_mobilenet_v3_large", {"input_size": (3, 520, 520), "crop_pct": 1.0}),
    ("ssdlite320_mobilenet_v3_large", {"input_size": (3, 320, 320), "mean": (0,) * 3}),
    ("r3d_18", {"input_size": (3, 16, 112, 112), "mean": (0.43216, 0.394666, 0.37645)}),
])  # fmt: skip
def test_networks_of_torchvision_read_what_their_weights_were_trained_on(name, read):
    said = record_of(open_structure(f"torchvision:{name}")).preprocess
    assert said.model_dump(include=read.keys()) == read


def test_a_smaller_network_without_weights_reads_smaller_images():
    structure = open_structure("torchvision:vit_h_14", random_weights=True)
    assert record_of(structure).preprocess.input_size == (3, 224, 224)


def test_a_detector_of_torchvision_takes_mean_and_std_off_itself():
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    detector = ssdlite320_mobilenet_v3_large(weights_backbone=None)
    assert declared_preprocess(detector).mean == (0, 0, 0)


def test_the_users_network_says_nothing(user):
    assert declared_preprocess(open_model(f"{user / 'model.py'}:build")) is None


@pytest.mark.parametrize(("model", "channels"), [
    (torch.nn.Sequential(torch.nn.Conv2d(5, 2, 3)), 5), (torch.nn.Linear(2, 2), 3),
])  # fmt: skip
def test_input_channels_are_those_of_the_first_convolution(model, channels):
    assert input_channels(model) == channels


# --- from the base of an artifact -----------------------------------------------------------


def test_a_base_is_built_without_weights_being_fetched(monkeypatch):
    asked = []
    real = timm.create_model

    def create_model(name, pretrained, **kwargs):
        asked.append(pretrained)
        return real(name, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, "create_model", create_model)
    assert build_base(Base(name="timm:resnet18", kwargs=NARROW), 62).num_classes == 4
    assert asked == [False]


@pytest.mark.parametrize(("name", "is_so"), [
    ("inception_v3", lambda model: model.transform_input),
    ("googlenet", lambda model: model.transform_input and model.aux1 is None),
    ("deeplabv3_mobilenet_v3_large", lambda model: model.aux_classifier is not None),
    ("retinanet_resnet50_fpn", lambda model: model.backbone.body.bn1.eps == 0),
])  # fmt: skip
def test_a_base_with_pretrained_weights_is_built_as_for_them(name, is_so):
    base = Base(name=f"torchvision:{name}", weights="pretrained")
    assert is_so(build_base(base, 300))
    assert not is_so(build_base(base.model_copy(update={"weights": "seed:0"}), 300))
    file = Path(torchvision.models.get_model_weights(name).DEFAULT.url).name  # fetched by hand
    assert is_so(build_base(base.model_copy(update={"weights": f"../{file}"}), 300))


@pytest.mark.parametrize("name", [
    "code", "", "timm:", "model.py:build", "os:system", "../../x", "timm:../../x", "timm:/etc/x",
    "timm:hf-hub:someone/something", "timm:local-dir:/tmp", "timm:resnet18\n", "timm:resnet81",
    "torchvision:os.system", "TIMM:resnet18", "torchvision:resnet18:x",
])  # fmt: skip
def test_a_base_with_any_other_name_is_refused(name):
    with pytest.raises(ConvswapError):
        build_base(Base(name=name), 62)


@pytest.mark.parametrize("kwargs", [
    {"checkpoint_path": "/tmp/x.pt"}, {"pretrained": True}, {"pretrained_cfg": "x"},
    {"pretrained_cfg_overlay": {"file": "/tmp/x"}}, {"pretrained_strict": False},
    {"cache_dir": "/tmp"}, {"scriptable": True}, {"weights": "DEFAULT"}, {"a b": 1},
    {"num_classes": 1 << 40}, {"num_classes": float("inf")}, {"num_classes": float("nan")},
    {"channels": [1 << 40]}, {"channels": [8] * 1000}, {"channels": {"a": 1}},
])  # fmt: skip
def test_a_base_with_dangerous_arguments_is_refused(kwargs):
    with pytest.raises(ConvswapError, match="resnet18"):
        build_base(Base(name="timm:resnet18", kwargs=kwargs), 62)


def test_the_teacher_of_a_random_network_is_that_network():
    dense = open_model("timm:resnet18", random_weights=True, seed=4, kwargs=NARROW)
    assert equal(open_teacher(record_of(dense).base), dense)


def test_the_teacher_of_a_file_is_read_from_it(user):
    dense = user_network(user, weights=True)
    factory = f"{user / 'model.py'}:build"
    assert equal(open_teacher(record_of(dense).base, architecture=factory), dense)


@pytest.mark.parametrize("change", ["changed", "gone"])
def test_a_teacher_whose_weights_are_not_what_they_were_is_refused(change, tmp_path):
    user = write_user_files(tmp_path)
    base = record_of(user_network(user, weights=True)).base
    path = user / "weights.safetensors"
    path.unlink()
    if change == "changed":
        save_file({"other": torch.zeros(1)}, path)
    with pytest.raises(ConvswapError, match=r"gone or changed.*--teacher-weights"):
        open_teacher(base, architecture=f"{user / 'model.py'}:build")


def test_a_teacher_of_nowhere_is_asked_for():
    with pytest.raises(ConvswapError, match="--teacher-weights"):
        open_teacher(Base(name="timm:resnet18"))
