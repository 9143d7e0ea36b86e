"""Arrays in place of images, through the verbs."""

from __future__ import annotations

import numpy as np
import pytest
from outer import USER, fail, succeed


@pytest.fixture
def arrays(here):
    """A user's folder with sixteen arrays of four channels, labelled."""
    x = np.random.default_rng(0).integers(0, 255, (16, 4, 16, 16)).astype("uint8")
    np.savez(here / "scans.npz", x=x, y=np.arange(16) % 4)
    return here


FOUR = ("model.py:build", "--model-arg", "channels=4")


def test_convert_distill_and_evaluate_read_arrays_alike(arrays):
    done = succeed("convert", *FOUR, "--data", "scans.npz", "--macs", "0.6", "--out", "small")
    assert "arrays of 4x16x16 are taken without mean and std" in done.err
    assert done.err.count("values of type uint8 are divided by 255") == 1
    done = succeed("distill", "small", *("--model", *FOUR), "--data", "scans.npz", "--epochs", "1",
                   "--out", "better")  # fmt: skip
    done = succeed("evaluate", "better", *("--model", *FOUR), "--data", "scans.npz", "--json")
    assert done.document["images"] == 16
    assert done.document["skipped"] == 0


def test_a_colour_network_refuses_arrays_of_four_channels_in_one_line(arrays):
    assert "channels" in fail("evaluate", *USER, "--data", "scans.npz")
