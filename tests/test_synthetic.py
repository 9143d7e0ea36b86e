"""Images made up from batch norms: what the norms see of them is what they remember."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny
from torch import nn
from torch.nn.functional import interpolate

from convswap import Preprocess
from convswap.errors import DataError
from convswap.inputs.synthetic import made_up, real_or_made_up

RAW = Preprocess(input_size=(3, 16, 16), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@pytest.fixture
def network():
    """A network whose batch norms have seen smooth images."""
    model, _ = tiny("residual")
    random = torch.Generator().manual_seed(0)
    images = interpolate(torch.rand(64, 3, 4, 4, generator=random), 16, mode="bilinear")
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
    model.train()((images - 0.5) / 0.25)
    return model.eval()


def gap(model: nn.Module, images: torch.Tensor) -> float:
    """How far the means at batch norms are from those remembered, in deviations."""
    found = []

    def compare(norm, args):
        mean = args[0].mean((0, 2, 3)) - norm.running_mean
        found.append((mean / norm.running_var.sqrt()).square().mean())

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(compare) for norm in norms]
    with torch.no_grad():
        model((images / 255 - 0.5) / 0.25)
    for handle in handles:
        handle.remove()
    return float(sum(found))


def test_batch_norms_see_what_they_remember(network):
    images = made_up(network, RAW, 24)
    noise = torch.randint(256, images.shape, generator=torch.Generator().manual_seed(0))
    assert images.shape == (24, *RAW.input_size)
    assert images.dtype == torch.uint8
    assert gap(network, images) < 0.2 * gap(network, noise)


def test_they_are_decided_by_the_seed_and_the_network_stays_as_it_was(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first, again, other = (made_up(network, RAW, 4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Conv2d(3, 4, 3), "has no batch norms"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), "has no"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)), "has no batch norms"),
    ],
    ids=["none", "without statistics", "of groups"],
)
def test_without_batch_norms_nothing_can_be_made_up(model, why):
    with pytest.raises(DataError, match=why):
        made_up(model, RAW, 4)


def test_they_are_made_once_for_a_network_and_a_seed(network, tmp_path, monkeypatch):
    monkeypatch.setattr("convswap.inputs.synthetic.IMAGES", 4)
    monkeypatch.setattr("convswap.inputs.synthetic.FILES", 2)
    told = []

    def made(seed: int = 0) -> Path:
        return Path(
            real_or_made_up("synthetic", network, RAW, tmp_path, seed=seed, note=told.append)
        )

    first, written = made(), made().stat().st_mtime_ns
    assert made() == first
    assert first.stat().st_mtime_ns == written
    assert np.load(first).shape[0] == 4
    assert "weaker than real ones" in told[0]
    assert made(1) != first
    with torch.no_grad():
        network.head.weight.add_(1)
    assert made() != first
    assert not first.exists()  # the oldest goes


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGED = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "empty": lambda path: path.write_bytes(b""),
    "of another shape": lambda path: np.save(path, np.zeros((4, 3, 8, 8), np.uint8)),
    "of another type": lambda path: np.save(path, np.zeros((4, 3, 16, 16), np.int64)),
    "a pipe": _pipe,
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_what_was_kept_and_is_damaged_is_made_again(damage, network, tmp_path, monkeypatch):
    monkeypatch.setattr("convswap.inputs.synthetic.IMAGES", 4)
    path = Path(real_or_made_up("synthetic", network, RAW, tmp_path))
    wanted = np.load(path)
    damage(path)
    assert real_or_made_up("synthetic", network, RAW, tmp_path) == str(path)
    assert np.array_equal(np.load(path), wanted)


def test_a_folder_that_cannot_be_written_stops_nothing(network, tmp_path, monkeypatch):
    monkeypatch.setattr("convswap.inputs.synthetic.IMAGES", 4)
    (tmp_path / "file").write_text("")
    path = real_or_made_up("synthetic", network, RAW, tmp_path / "file" / "synthetic")
    assert np.load(path).shape == (4, 3, 16, 16)


def test_they_are_made_for_a_network_of_half_precision_too(network):
    assert made_up(network.half(), RAW, 4).shape == (4, *RAW.input_size)


def test_real_images_are_left_to_be_read(network, tmp_path):
    assert real_or_made_up("photos/", network, RAW, tmp_path) == "photos/"
    assert real_or_made_up(None, network, RAW, tmp_path) is None
