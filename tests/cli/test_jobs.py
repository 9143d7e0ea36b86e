"""Recipes for real jobs: each runs to its end on a tiny stand-in for its network and images."""

from __future__ import annotations

from pathlib import Path

import pytest
from outer import names, succeed, write_images

from convswap import load, open_model, record_of
from convswap.recipe import recipe

NETWORKS = '''"""Networks of the kinds the recipes are for."""

from torch import nn
from torch.nn.functional import interpolate


class Maps(nn.Module):
    """Scores of classes for each pixel, twice, as torchvision's segmentation networks have them."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, 1, 1))
        self.head, self.aux = nn.Conv2d(12, 4, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x):
        seen = self.body(x)
        large = [interpolate(each(seen), x.shape[2:]) for each in (self.head, self.aux)]
        return dict(zip(("out", "aux"), large))


def maps():
    return Maps()


def larger():
    return nn.Sequential(nn.Conv2d(3, 12, 3, 1, 1), nn.PReLU(12), nn.Conv2d(12, 12, 3, 1, 1),
                         nn.PReLU(12), nn.Conv2d(12, 12, 3, 1, 1), nn.PixelShuffle(2))
'''
NAMED = {"model.name": "timm:resnet18", "model.random_weights": True, "data.batch_size": 8}
NARROW_TEXT = "channels: [8, 8, 16, 16], layers: [1, 1, 1, 1], stem_width: 8"
JOBS = {
    "timm-classifier": {"model.kwargs": f"{{{NARROW_TEXT}, num_classes: 4}}"},
    "segmentation": "maps",
    "super-resolution": "larger",
    "detector-backbone": {
        "model.kwargs": f"{{{NARROW_TEXT}, features_only: true, out_indices: [1, 2]}}",
        "budget": "{macs: 0.6}", "target.name": "eager",  # nothing so small gets faster
    },
    "phone-int8": {
        "model.kwargs": f"{{{NARROW_TEXT}, num_classes: 4}}",
        "target.name": "eager",  # in integers: `test_run.py`, on a network that takes less long
    },
    "many-gpus": {"model.kwargs": f"{{{NARROW_TEXT}, num_classes: 4}}"},
}  # fmt: skip


def test_every_recipe_is_run_here_or_where_it_is_measured():
    assert JOBS.keys() | {"digits", "resnet20-cifar10"} == recipe.shipped().keys()


@pytest.mark.parametrize("name", JOBS)
def test_a_recipe_does_its_job(name, tmp_path, monkeypatch):
    if "onnxruntime" in recipe.load(recipe.find(name)).target.name:
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_images(tmp_path / "photos", each=4, size=(32, 32))
    Path("networks.py").write_text(NETWORKS)
    own, settings = JOBS[name], {"data.calibration": "photos", "data.test": "photos"}
    settings |= {"data.images": 16, "data.input_size": "[3, 32, 32]"}
    model = ("--model", f"networks.py:{own}") if isinstance(own, str) else ()
    settings |= NAMED | own if isinstance(own, dict) else {"model.kwargs": "{}"}
    if recipe.load(recipe.find(name)).distill:
        settings |= {"distill.epochs": 1, "distill.batch_size": 8}
    changes = [word for pair in settings.items() for word in ("--set", "{}={}".format(*pair))]
    done = succeed("run", name, *model, *changes, "--out", "o", "--json")
    dense, *_, last = done.document.values()
    assert last["macs"] < 0.7 * dense["macs"]
    assert {"macs", "ms"} <= last.keys()
    classifies = name in ("timm-classifier", "phone-int8", "many-gpus")
    assert ("kl" in last) == classifies  # of random weights: labels say nothing of these
    assert "top1" not in last
    stages = [stage for stage in ("converted", "recovered") if stage in names("o")]
    base = open_model(model[1]) if model else None
    assert record_of(load(f"o/{stages[-1]}", base)).plans
