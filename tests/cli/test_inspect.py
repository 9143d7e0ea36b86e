"""convswap inspect."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import timm
from outer import USER, commands, fail, options, succeed, write_plan

from convswap import find_sites, observe, open_model
from convswap.inputs.networks import open_structure

FORGER = """
from torch import nn

def build():
    return nn.Sequential(__import__("collections").OrderedDict(
        {"x\\x1b[31m\\nwrote base": nn.Conv2d(3, 8, 3), "tail": nn.Flatten()}))
"""

TALKER = """
import argparse
import os

from torch import nn

print(argparse.ArgumentParser().parse_args())
os.chdir("/")

class Talker(nn.Conv2d):
    def forward(self, x):
        print(x.shape)
        return super().forward(x)

def build():
    print("building")
    return nn.Sequential(Talker(3, 8, 3), nn.Conv2d(8, 8, 3))
"""


def test_what_users_code_prints_and_where_it_goes_is_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "talker.py").write_text(TALKER)
    done = succeed("inspect", "talker.py:build", "--input-size", "3,8,8", "--json")
    assert done.document["model"] == "talker.py:build"
    assert "building" in done.err
    assert Path.cwd() == tmp_path


def test_inspect_lists_every_convolution(shared):
    done = succeed("inspect", *USER, "--input-size", "3,16,16")
    assert "stem" in done.out
    assert "body" in done.out
    assert "2 of 3 layers can be replaced, 100.0%" in done.out


def test_inspect_gives_the_reason_for_a_layer_left_alone(here):
    succeed("convert", *USER, "--data", "data", "--plan", write_plan("body", "bottleneck", 4),
            "--out", "o")  # fmt: skip
    sites = succeed("inspect", "o", "--model", "model.py:build", "--json").document["sites"]
    reasons = {site["path"]: site["reason"] for site in sites}
    assert "depthwise" in reasons["body.depthwise"]
    assert reasons["stem"] is None


def test_inspect_of_a_timm_model_by_name():
    done = succeed("inspect", "timm:resnet18", "--random-weights", "--model-arg", "num_classes=7",
                   "--model-arg", "channels=[8,8,16,16]", "--input-size", "3,32,32",
                   "--json")  # fmt: skip
    assert done.document["sites"][0]["path"] == "conv1"
    assert done.document["sites"][-2]["kernel"] == [16, 16, 3, 3]
    assert done.document["input_size"] == [3, 32, 32]


def test_inspect_of_a_one_channel_model_finds_its_input_size_by_itself():
    done = succeed("inspect", "timm:resnet18", "--random-weights", "--model-arg", "in_chans=1",
                   "--json")  # fmt: skip
    assert done.document["input_size"][0] == 1


def test_inspect_shows_no_option_that_it_does_not_have(shared):
    done = succeed("inspect", *USER)
    said = {word.strip(",.") for word in done.err.split() if word.startswith("--")}
    assert said <= options(commands()["inspect"])


def test_a_size_that_was_said_is_not_called_assumed(shared):
    done = succeed("inspect", *USER, "--input-size", "3,16,16")
    assert "224" not in done.err


def test_names_of_layers_forge_nothing(here):
    (here / "forger.py").write_text(FORGER)
    done = succeed("inspect", "forger.py:build", "--random-weights", "--input-size", "3,16,16")
    assert "\x1b" not in done.out
    assert not any(line.startswith("wrote") for line in done.out.splitlines())
    assert r"x\x1b[31m\nwrote base" in done.out


def test_inspect_advises_it_and_says_what_is_separable():
    asked = ("inspect", "timm:repghostnet_050", "--input-size", "3,32,32")
    found = succeed(*asked, "--json")
    assert "--reparameterize" in found.err
    assert found.document["has_branches"] is True
    folded = succeed(*asked, "--reparameterize")
    assert "--reparameterize" not in folded.err
    assert "depthwise separable layers already" in folded.out
    plain = succeed("inspect", "timm:resnet18", "--input-size", "3,32,32")
    assert "--reparameterize" not in plain.err
    assert "separable" not in plain.out


def test_code_of_the_user_is_not_folded(shared):
    assert "only networks of timm" in fail("inspect", *USER, "--reparameterize")


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18", "timm:resnetv2_50"])
def test_to_look_at_a_network_takes_no_weights(name):
    options = ("--input-size", "3,64,64", "--json")
    found = succeed("inspect", name, *options).document
    model = open_model(name, random_weights=True)
    assert found["params"] == sum(p.numel() for p in model.parameters())
    assert found["sites"] == [json.loads(json.dumps(row)) for row in inspected(model, (3, 64, 64))]


def inspected(model, size):
    seen = observe(model, size).sites
    return [asdict(s) | {"calls": s.calls, "forms": s.forms, **asdict(s.cost)} for s in seen]


def test_networks_to_look_at_have_no_storage_where_that_is_enough():
    assert next(open_structure("timm:vit_giant_patch14_224").parameters()).is_meta
    normed = open_structure("timm:nf_resnet26")  # its weights are standardised: tried on some
    assert next(normed.parameters()).is_meta
    real = timm.create_model("nf_resnet26").eval()
    assert find_sites(normed, (3, 64, 64))[0] == find_sites(real, (3, 64, 64))[0]
