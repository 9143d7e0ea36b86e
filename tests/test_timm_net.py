"""What convswap writes from a network of timm is a network of timm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import timm
import torch
from helpers import image_batches, plan_for
from torch import Tensor, nn

import convswap
from convswap import Preprocess, convert, load, open_model, record_of, save
from convswap.errors import ConvswapError
from convswap.forms import Factorized
from convswap.record import remember

NARROW = {"channels": [8, 8, 16, 16], "num_classes": 4, "zero_init_last": False}
SIZE = (3, 32, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = open_model("timm:resnet18", random_weights=True, kwargs=NARROW)
    remember(model, preprocess=Preprocess(input_size=SIZE, mean=(0.5,) * 3, crop_pct=0.9))
    made = plan_for(model, SIZE, {
        "layer2.0.conv2": ("bottleneck", 6), "layer3.1.conv1": ("spatial", 4),
        "layer4.0.conv2": ("tucker", (6, 5)),
    })  # fmt: skip
    out = tmp_path_factory.mktemp("timm") / "out"
    save(convert(model, made, image_batches(SIZE)), out)
    return out


def images() -> Tensor:
    return image_batches(SIZE)[0]


def rows(model: nn.Module) -> int:
    return sum(isinstance(module, Factorized) for module in model.modules())


def test_timm_opens_it(folder):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert torch.equal(model(images()), load(folder)(images()))
    assert rows(model) == 3


@pytest.mark.parametrize("done", range(5))
def test_when_replacing_is_cut_off_timm_finds_no_mixture(done, folder, tmp_path, monkeypatch):
    old = load(folder)
    new = remember(load(folder), preprocess=Preprocess(input_size=SIZE, mean=(0.4,) * 3))
    nn.init.zeros_(new.fc.bias)
    out, real, calls = shutil.copytree(folder, tmp_path / "out"), os.replace, []

    def cut_off(*paths: Path) -> None:
        calls.append(paths)
        if len(calls) > done:
            raise OSError("cut off")
        real(*paths)

    monkeypatch.setattr(os, "replace", cut_off)
    with suppress(OSError):
        save(new, out, force=True)
    monkeypatch.undo()
    assert len(calls) == done + 1
    wanted = load(out)
    assert any(torch.equal(wanted(images()), each(images())) for each in (old, new))
    if (out / "config.json").exists():
        model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
        first = model.pretrained_cfg["mean"][0]
        assert torch.equal(model(images()), {0.5: old, 0.4: new}[first](images()))


def test_it_is_prepared_for_as_it_was_made(folder):
    model = timm.create_model(f"local-dir:{folder}")
    how = timm.data.resolve_model_data_config(model)
    assert (tuple(how["input_size"]), *how["mean"], how["crop_pct"]) == (SIZE, 0.5, 0.5, 0.5, 0.9)
    assert model.num_classes == 4


def test_without_weights_it_has_new_ones(folder):
    model = timm.create_model(f"local-dir:{folder}").eval()
    assert rows(model) == 3
    assert model(images()).isfinite().all()
    assert not torch.equal(model(images()), load(folder)(images()))


def test_it_takes_other_classes_and_channels(folder):
    name = f"local-dir:{folder}"
    other = timm.create_model(name, pretrained=True, num_classes=9, in_chans=1).eval()
    assert other(images()[:, :1]).shape == (6, 9)
    wanted = load(folder).state_dict()["layer3.0.conv1.weight"]
    assert torch.equal(other.state_dict()["layer3.0.conv1.weight"], wanted)
    assert timm.create_model(name, pretrained=True, num_classes=0)(images()).shape == (6, 16)


def test_it_gives_features(folder):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).eval()
    found = model(images())
    wanted = load(folder).forward_intermediates(images(), intermediates_only=True)
    assert [f.shape for f in found] == [w.shape for w in wanted]
    assert torch.equal(found[-1], wanted[-1])


def test_what_timm_has_trained_is_saved_again(folder, tmp_path):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=2).eval()
    with torch.no_grad():
        model.fc.weight.add_(1)
    assert record_of(model).plans == record_of(load(folder)).plans
    save(model, tmp_path / "again")
    assert torch.equal(load(tmp_path / "again")(images()), model(images()))
    again = timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).eval()
    assert torch.equal(again(images()), model(images()))


def test_timm_knows_it_where_it_is_imported_first(folder, nursery, tmp_path):
    """Everywhere else here it comes second."""
    code = f"import timm, convswap; timm.create_model('local-dir:{folder}', pretrained=True)"
    done = nursery.run(code, cwd=tmp_path)
    assert done.code == 0, done.err


def test_convswap_alone_imports_no_timm():
    code = "import convswap, sys; assert 'timm' not in sys.modules and 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_it_comes_from_a_hub_as_well(folder, tmp_path, monkeypatch):
    hub = tmp_path / "models--me--faster"
    (hub / "refs").mkdir(parents=True)
    (hub / "snapshots").mkdir()
    (hub / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    (hub / "snapshots" / ("0" * 40)).symlink_to(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = timm.create_model("hf-hub:me/faster", pretrained=True, cache_dir=tmp_path).eval()
    assert torch.equal(model(images()), load(folder)(images()))


def changed(folder: Path, to: Path, **arguments: object) -> str:
    """The folder with other arguments in its `config.json`, as timm names it."""
    to.mkdir()
    for name in ("config.json", "model.safetensors"):
        (to / name).write_bytes((folder / name).read_bytes())
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    content["model_args"] |= arguments
    (to / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return f"local-dir:{to}"


@pytest.mark.parametrize("arguments", [
    {"base": "../resnet18"}, {"base": "local-dir:/tmp"}, {"base_args": {"checkpoint_path": "x"}},
    {"base_args": {"channels": [1 << 20]}},
])  # fmt: skip
def test_a_hostile_folder_is_refused(folder, tmp_path, arguments):
    with pytest.raises(ConvswapError, match="timm"):
        timm.create_model(changed(folder, tmp_path / "bad", **arguments), pretrained=True)


def test_a_network_of_other_code_gets_no_config(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3))
    small = convert(model, plan_for(model, SIZE, {"1": ("channel", 2)}), image_batches(SIZE))
    assert not (convswap.save(small, tmp_path / "out") / "config.json").exists()


def test_somebody_elses_config_stays(folder, tmp_path):
    small = load(folder)
    save(small, tmp_path / "out")
    (tmp_path / "out" / "config.json").write_text('{"mine": 1}', encoding="utf-8")
    save(small, tmp_path / "out", force=True)
    assert (tmp_path / "out" / "config.json").read_text(encoding="utf-8") == '{"mine": 1}'


def test_a_linked_config_stays_a_link(folder, tmp_path):
    small = load(folder)
    save(small, tmp_path / "out")
    (tmp_path / "out" / "config.json").rename(tmp_path / "blob")
    (tmp_path / "out" / "config.json").symlink_to(tmp_path / "blob")
    before = (tmp_path / "blob").read_bytes()
    save(small, tmp_path / "out", force=True)
    assert (tmp_path / "out" / "config.json").is_symlink()
    assert (tmp_path / "blob").read_bytes() == before
