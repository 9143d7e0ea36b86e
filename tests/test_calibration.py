"""What goes in is settled before anything runs: sizes, means, and how many images there are."""

from __future__ import annotations

import pytest
from torch import nn

from convswap import ConvswapError, Preprocess, record_of
from convswap.inputs import calibration
from convswap.inputs.calibration import calibration_batches, within_memory
from convswap.inputs.preprocess import settle_preprocess
from convswap.network.memory import in_flight_bytes
from convswap.record import remember
from convswap.statistics.moments import fit_bytes


@pytest.fixture
def model():
    return remember(nn.Conv2d(3, 3, 1), preprocess=Preprocess(input_size=(3, 256, 256)))


def test_where_free_memory_is_not_known_all_images_are_taken(model, monkeypatch):
    monkeypatch.setattr(calibration, "free_bytes", lambda device: None)
    assert within_memory(model, 1000) == 1000


def test_half_of_what_is_free_bounds_the_images(model, monkeypatch):
    each = 2 * in_flight_bytes(model, (3, 256, 256))
    monkeypatch.setattr(calibration, "free_bytes", lambda device: 20 * each)
    said = []
    assert within_memory(model, 1000, note=said.append) == 10
    assert len(said) == 1
    assert "10 images in place of 1000" in said[0]


def test_memory_for_the_fits_is_left(model, monkeypatch):
    each, fixed = 2 * in_flight_bytes(model, (3, 256, 256)), fit_bytes(model)
    monkeypatch.setattr(calibration, "free_bytes", lambda device: fixed + each)
    assert within_memory(model, 1000) == 1
    monkeypatch.setattr(calibration, "free_bytes", lambda device: fixed)
    with pytest.raises(ConvswapError, match="is too little: one image takes"):
        within_memory(model, 1000)


def test_without_a_source_there_are_no_batches(model):
    assert calibration_batches(model, None) == []


def test_a_network_of_a_library_needs_no_assumption(model):
    said = []
    assert settle_preprocess(model, note=said.append) == record_of(model).preprocess
    assert said == []


def test_what_is_said_is_kept_and_what_is_not_is_assumed_aloud():
    said, unknown = [], nn.Conv2d(3, 4, 3)
    settled = settle_preprocess(unknown, input_size=(3, 16, 16), mean=(0.2,), note=said.append)
    assert (settled.input_size, settled.mean) == ((3, 16, 16), (0.2, 0.2, 0.2))
    assert record_of(unknown).preprocess == settled
    assert said == []
    settle_preprocess(nn.Conv2d(1, 4, 3), note=said.append)
    assert said == ["assumed input size 1x224x224: say otherwise with --input-size"]


@pytest.mark.parametrize(("change", "words"), [
    ({"input_size": (1, 16, 16)}, "the network takes 3"),
    ({"input_size": (3, 0, 16)}, "impossible input"),
    ({"mean": (0.5, 0.5)}, "mean takes one number, or 3"),
    ({"std": (0.0,)}, "impossible input: std"),
])  # fmt: skip
def test_inputs_that_cannot_be_are_refused_and_not_remembered(change, words, model):
    before = record_of(model)
    with pytest.raises(ConvswapError, match=words):
        settle_preprocess(model, **change)
    assert record_of(model) == before
