"""Branches that networks are trained with: folded first where asked, and remembered."""

from __future__ import annotations

import pytest
import timm
import torch
from helpers import plan_for, relative
from timm.utils import reparameterize_model

from convswap import ConvswapError, convert, load, open_model, record_of, save
from convswap.inputs.bases import fold_branches_, has_branches
from convswap.inputs.networks import open_teacher

SIZE = (3, 32, 32)
NAME, LAYER = "timm:repvgg_a0", "stages.1.0.reparam_conv"


@pytest.fixture(scope="module")
def folded():
    return open_model(NAME, random_weights=True, fold=True)


@pytest.mark.parametrize("name", [
    "repvgg_a0", "repvit_m0_9", "repghostnet_050",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("mobileone_s0", "ghostnetv3_050")),
])  # fmt: skip
@torch.no_grad()
def test_a_folded_network_puts_out_the_same_with_less(name: str):
    model, x = open_model(f"timm:{name}", random_weights=True), torch.randn(1, 3, 64, 64)
    wanted, size = model(x), len([*model.modules()])
    assert has_branches(model)
    fold_branches_(model)
    assert not has_branches(model)
    assert relative(model(x), wanted) < 1e-5
    assert len([*model.modules()]) < size


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "xception41"])
def test_a_network_without_branches_is_told_apart(name: str):
    with torch.device("meta"):
        assert not has_branches(timm.create_model(name))


def test_an_artifact_of_a_folded_network_needs_no_code(folded, tmp_path):
    small = convert(folded, plan_for(folded, SIZE, {LAYER: ("channel", 3)}, fit="weight"))
    save(small, tmp_path / "art")
    again, x = load(tmp_path / "art"), torch.randn(1, *SIZE)
    assert record_of(again).base.folded
    assert torch.equal(again(x), small(x))
    assert torch.equal(open_teacher(record_of(again).base)(x), folded(x))


def test_a_network_folded_by_timm_itself_is_written_as_one(tmp_path):
    model = reparameterize_model(open_model(NAME, random_weights=True))
    small = convert(model, plan_for(model, SIZE, {LAYER: ("channel", 3)}, fit="weight"))
    save(small, tmp_path / "art")
    x = torch.randn(1, *SIZE)
    assert torch.equal(load(tmp_path / "art")(x), small(x))


def test_weights_may_have_been_folded_before_they_were_saved(folded, tmp_path):
    plain, x = tmp_path / "plain.pth", torch.randn(1, *SIZE)
    torch.save(folded.state_dict(), tmp_path / "folded.pth")
    torch.save(open_model(NAME, random_weights=True).state_dict(), plain)
    for path in (tmp_path / "folded.pth", plain):
        again = open_model(NAME, weights=path, fold=True)
        assert torch.equal(again(x), folded(x))
    assert torch.equal(open_teacher(record_of(again).base)(x), folded(x))
    with pytest.raises(ConvswapError, match="2 of another shape"):
        open_model(NAME, weights=plain, fold=True, kwargs={"num_classes": 7})


@pytest.mark.parametrize("name", ["torchvision:resnet18", "helpers:Residual"])
def test_other_networks_do_not_say_how(name: str):
    with pytest.raises(ConvswapError, match="only networks of timm"):
        open_model(name, random_weights=name.startswith("torchvision"), fold=True)
