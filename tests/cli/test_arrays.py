"""Arrays in place of images, through the verbs."""

from __future__ import annotations

from pathlib import Path

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


READER = """import torch
from torch import nn


class Reader(nn.Module):
    num_classes = 4

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.first, self.second = nn.Conv1d(16, 16, 3, padding=1), nn.Conv1d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, input_ids):
        x = torch.relu(self.first(self.words(input_ids).mT))
        return self.head(torch.relu(self.second(x)).amax(2))
"""


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """A network that reads words, in a file, and the numbers of words, labelled."""
    monkeypatch.chdir(tmp_path)
    Path("reader.py").write_text(READER)
    words = np.random.default_rng(0).integers(0, 50, (16, 12))
    np.savez("texts.npz", x=words, y=np.arange(16) % 4)


def test_words_go_through_the_verbs_as_whole_numbers(texts):
    model, data = "reader.py:Reader", ("--data", "texts.npz")
    done = succeed("inspect", model, "--input-size", "12", "--json")
    assert done.document["macs"] > 0
    done = succeed("convert", model, "--random-weights", *data, "--macs", "0.6", "--out", "small")
    assert "2 layers converted" in done.out
    succeed("distill", "small", "--model", model, *data, "--epochs", "1", "--out", "better")
    done = succeed("evaluate", "better", "--model", model, *data, "--json")
    assert (done.document["images"], done.document["skipped"]) == (16, 0)
    done = succeed("export", "better", "--model", model, *data, "--batch", "1", "--onnx", "n.onnx",
                   "--pt2", "n.pt2")  # fmt: skip
    assert "onnx: largest difference from PyTorch" in done.err
