"""Counting: textbook figures for single layers, hand-made sums for whole networks."""

from __future__ import annotations

import pytest
import torch
from helpers import TINY, tiny
from timm.layers import Conv2dSame
from torch import Tensor, nn

from convswap.errors import ModelError
from convswap.forms import Layer
from convswap.network.cost import Cost, Counter, Size, count, layers_cost


@pytest.mark.parametrize(
    ("layer", "input_size", "macs", "params"),
    [
        (nn.Conv2d(8, 16, 3), (8, 10, 10), 8 * 8 * 16 * 8 * 9, 16 * 8 * 9 + 16),
        (nn.Conv2d(8, 16, 3, padding=1), (8, 10, 10), 10 * 10 * 16 * 8 * 9, 16 * 8 * 9 + 16),
        (nn.Conv2d(8, 16, 3, stride=2, padding=1), (8, 10, 9), 5 * 5 * 16 * 8 * 9, 1168),
        (nn.Conv2d(8, 16, 3, bias=False), (8, 10, 10), 8 * 8 * 16 * 8 * 9, 16 * 8 * 9),
        (nn.Conv2d(8, 16, (1, 3), dilation=2), (8, 10, 10), 10 * 6 * 16 * 8 * 3, 16 * 8 * 3 + 16),
        (nn.Conv2d(8, 16, 3, groups=4), (8, 10, 10), 8 * 8 * 16 * 2 * 9, 16 * 2 * 9 + 16),
        (nn.Conv2d(8, 8, 3, groups=8), (8, 10, 10), 8 * 8 * 8 * 9, 8 * 9 + 8),
        (Conv2dSame(8, 16, 3, stride=2), (8, 9, 9), 5 * 5 * 16 * 8 * 9, 16 * 8 * 9 + 16),
        (nn.ConvTranspose2d(8, 16, 2, stride=2), (8, 5, 5), 5 * 5 * 8 * 16 * 4, 8 * 16 * 4 + 16),
        (nn.Linear(12, 7), (12,), 12 * 7, 12 * 7 + 7),
        (nn.Linear(12, 7, bias=False), (4, 12), 4 * 12 * 7, 12 * 7),
        (nn.BatchNorm2d(8), (8, 10, 10), 0, 16),
        (nn.Flatten(), (8, 10, 10), 0, 0),
    ],
    ids=[
        "plain", "padding", "stride", "no bias", "1x3, dilation", "groups", "depthwise",
        "Conv2dSame", "transposed", "linear", "linear over tokens", "norm", "nothing",
    ],
)  # fmt: skip
def test_layer_costs_what_the_textbook_says(layer, input_size, macs: int, params: int):
    cost = count(layer, input_size)
    assert (cost.macs, cost.params) == (macs, params)


HAND = {  # macs, params
    "residual": (
        64 * (3 * 8 * 9 + 8 * 8 * 9 + 8 * 8 * 9) + 8 * 5,
        3 * 8 * 9 + 2 * 8 + 8 * 8 * 9 + (8 * 8 * 9 + 8) + (8 * 5 + 5),
    ),
    "called twice": (
        144 * 3 * 8 * 9 + (36 + 9) * 8 * 8 * 9 + 9 * 8 * 8 * 9,
        (3 * 8 * 9 + 8) + 2 * (8 * 8 * 9 + 8),
    ),
    "two paths": (64 * (3 * 8 * 9 + 2 * 8 * 8 * 9), (3 * 8 * 9 + 8) + (8 * 8 * 9 + 8)),
    "grouped": (
        64 * (3 * 8 * 9 + 8 * 4 * 9 + 8 * 9) + 9 * 8 * 8 * 9,
        (3 * 8 * 9 + 8) + (8 * 4 * 9 + 8) + (8 * 9 + 8) + (8 * 8 * 9 + 8),
    ),
    "in place": (64 * (3 * 12 * 9 + 12 * 8 * 9), (3 * 12 * 9 + 12) + (12 * 8 * 9 + 8)),
    "two outputs": (
        64 * (3 * 8 * 9 + 8 * 8 * 9 + 8 * 10),
        (3 * 8 * 9 + 8) + (8 * 8 * 9 + 8) + (8 * 10 + 10),
    ),
    "uneven": (40 * (3 * 8 * 3 + 8 * 8 * 15), (3 * 8 * 3 + 8) + (8 * 8 * 15 + 8)),
    "concat": (
        81 * (3 * 8 * 9 + 3 * 8 * 25) + 49 * 16 * 8 * 9,
        (3 * 8 * 9 + 8) + (3 * 8 * 25 + 8) + (16 * 8 * 9 + 8),
    ),
    "data-dependent": (64 * (3 * 8 * 9 + 8 * 8 * 9), (3 * 8 * 9 + 8) + (8 * 8 * 9 + 8)),
    "kept in a list": (64 * (3 + 2 * 8) * 8 * 9, (3 * 8 * 9 + 8) + 2 * (8 * 8 * 9 + 8)),
    "reads attributes": (64 * 3 * 8 * 9 + 16 * 8 * 8 * 9, (3 * 8 * 9 + 8) + (8 * 8 * 9 + 8)),
    "asks for the class": (64 * (3 + 2 * 8) * 8 * 9, (3 * 8 * 9 + 8) + 2 * (8 * 8 * 9 + 8)),
    "frozen trunk": (64 * (3 + 8) * 8 * 9, (3 * 8 * 9 + 8) + (8 * 8 * 9 + 8)),
    "inference mode": (64 * (3 + 8) * 8 * 9, (3 * 8 * 9 + 8) + (8 * 8 * 9 + 8)),
    "cut off": (64 * (3 + 8) * 8 * 9, (3 * 8 * 9 + 8) + (8 * 8 * 9 + 8)),
    "frames": (64 * (3 + 8) * 8 * 9, (3 * 8 * 9 + 8) + (8 * 8 * 9 + 8)),
    "remembers": (64 * (3 + 8) * 8 * 9, (3 * 8 * 9 + 8) + (8 * 8 * 9 + 8)),
    "token of its own": (
        64 * 3 * 8 * 9 + 8 * 8 + 8 * 5,
        (3 * 8 * 9 + 8) + 8 + (8 * 8 + 8) + (8 * 5 + 5),
    ),
    "windows": (64 * (3 * 8 * 9 + 8 * 8) + 8 * 5, (3 * 8 * 9 + 8) + (8 * 8 + 8) + (8 * 5 + 5)),
    "product with a parameter": (64 * 3 * 8 * 9 + 6 * 5, (3 * 8 * 9 + 8) + 6 * 8 + (6 * 5 + 5)),
    "own class": (64 * (3 + 8) * 8 * 9, (3 * 8 * 9 + 8) + (8 * 8 * 9 + 8)),
}


@pytest.mark.parametrize("name", TINY)
def test_network_costs_the_sum_of_its_layers(name: str):
    model, input_size = tiny(name)
    cost = count(model, input_size)
    assert (cost.macs, cost.params) == HAND[name]


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float32, 4), (torch.float64, 8), (torch.bfloat16, 2)]
)
def test_bytes_count_parameters_and_buffers_by_their_type(dtype: torch.dtype, size: int):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(dtype)
    tracked = 8  # the int64 counter of the norm
    assert count(model, (3, 6, 6)).bytes == (3 * 8 * 9 + 8 + 4 * 8) * size + tracked


def test_counting_is_the_same_for_a_model_in_training_mode():
    model, input_size = tiny("residual")
    expected = count(model, input_size)
    assert count(model.train(), input_size) == expected
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("name", TINY)
def test_counting_changes_nothing(name: str):
    model, input_size = tiny(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    count(model, input_size)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("words", "said"),
    [("no such luck\nat all", "no such luck$"), ("why:\n\n  no luck\nat all", "why: no luck$"),
     ("why:", "why:$"), ("", "ValueError$")],
)  # fmt: skip
def test_network_that_fails_says_so_and_on_what(words: str, said: str):
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError(words)

    with pytest.raises(ModelError, match=f"Broken fails on an input of 3x8x8: {said}"):
        count(Broken(), (3, 8, 8))


def test_costs_add_and_subtract_by_field():
    a, b = Cost(10, 20, 30), Cost(1, 2, 3)
    assert a + b == Cost(11, 22, 33)
    assert a - b == Cost(9, 18, 27)


def test_layer_shrinks_the_map_along_the_axes_it_spans():
    layers = [
        Layer("vertical", 4, 5, (3, 1), (True, False)),
        Layer("horizontal", 5, 6, (1, 3), (False, True)),
    ]
    cost = layers_cost(layers, [Size((10, 12), (5, 6))], itemsize=4, bias=True)
    assert cost.macs == 5 * 12 * (4 * 5 * 3) + 5 * 6 * (5 * 6 * 3)
    assert cost.params == 4 * 5 * 3 + 5 * 6 * 3 + 6
    assert cost.bytes == 4 * cost.params


def test_every_call_costs_multiply_adds_and_none_costs_parameters_again():
    layers = [Layer("expand", 4, 6)]
    once = layers_cost(layers, [Size((5, 5), (5, 5))], itemsize=2, bias=False)
    twice = layers_cost(
        layers, [Size((5, 5), (5, 5)), Size((3, 3), (3, 3))], itemsize=2, bias=False
    )
    assert once == Cost(25 * 24, 24, 48)
    assert twice == Cost((25 + 9) * 24, 24, 48)


def test_a_network_that_takes_whole_numbers_is_looked_at_on_them():
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 3))
    assert count(model, (6,)).macs == 6 * 12


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_cost_the_same_where_they_are_computed(kind: type[nn.Module]):
    layer = kind(5, 3, num_layers=2, bidirectional=True, batch_first=True).eval()
    with torch.no_grad(), Counter() as computed:
        layer(torch.randn(1, 7, 5))
    gates = 4 if kind is nn.LSTM else 3
    assert computed.macs == 7 * 2 * gates * 3 * ((5 + 3) + (6 + 3))
    assert count(layer, torch.randn(1, 7, 5)).macs == computed.macs
