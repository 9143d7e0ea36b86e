"""The textbook layer: its shapes, and that it stands in for a dense convolution."""

from __future__ import annotations

import pytest
import torch
from helpers import CONVOLUTIONS, TOLERANCE, convolution, moment, relative
from torch import nn

from convswap import ConvswapError, DepthwiseSeparableConv2d

PLAIN = [name for name, settings in CONVOLUTIONS.items() if not settings.get("same")]


def test_the_textbook_example():
    layer = DepthwiseSeparableConv2d(3, 2, 3)
    assert layer(torch.zeros(1, 3, 5, 5)).shape == (1, 2, 3, 3)
    assert layer.depthwise(torch.zeros(1, 3, 5, 5)).shape == (1, 3, 3, 3)
    assert layer.depthwise.weight.shape == (3, 1, 3, 3)
    assert layer.pointwise.weight.shape == (2, 3, 1, 1)


def test_the_textbook_example_by_hand():
    layer = DepthwiseSeparableConv2d(3, 2, 3, bias=False)
    image = torch.randn(1, 3, 5, 5)
    spatial = torch.zeros(3, 3, 3)
    for channel in range(3):
        for row in range(3):
            for column in range(3):
                patch = image[0, channel, row : row + 3, column : column + 3]
                spatial[channel, row, column] = (patch * layer.depthwise.weight[channel, 0]).sum()
    wanted = torch.einsum("oc,chw->ohw", layer.pointwise.weight[:, :, 0, 0], spatial)
    assert relative(layer(image)[0], wanted) < 1e-5


def test_it_has_fewer_weights_than_a_dense_convolution():
    layer = DepthwiseSeparableConv2d(32, 64, 3, bias=False)
    assert sum(p.numel() for p in layer.parameters()) == 32 * 9 + 32 * 64


def test_the_bias_is_on_the_pointwise_layer_alone():
    layer = DepthwiseSeparableConv2d(4, 6, 3)
    assert layer.depthwise.bias is None
    assert layer.pointwise.bias.shape == (6,)
    assert DepthwiseSeparableConv2d(4, 6, 3, bias=False).pointwise.bias is None


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch says so of dense ones too
@pytest.mark.parametrize("name", PLAIN)
def test_it_has_the_shape_rules_of_a_dense_convolution(name):
    conv, x = convolution(name)
    layer = DepthwiseSeparableConv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
        conv.dilation, conv.bias is not None, conv.padding_mode, dtype=conv.weight.dtype,
    )  # fmt: skip
    assert layer(x).shape == conv(x).shape
    assert layer(x).dtype == conv.weight.dtype


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", PLAIN)
def test_from_conv_is_exact_with_a_filter_for_every_tap(name):
    conv, x = convolution(name)
    layer = DepthwiseSeparableConv2d.from_conv(conv, multiplier=conv.weight[0, 0].numel())
    assert relative(layer(x), conv(x)) < TOLERANCE[conv.weight.dtype]


def test_from_conv_comes_closer_with_more_filters():
    conv, x = convolution("padding 1")
    errors = [relative(DepthwiseSeparableConv2d.from_conv(conv, multiplier=m)(x), conv(x))
              for m in (1, 2, 4, 9)]  # fmt: skip
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 1
    assert errors[-1] < 1e-9


@pytest.mark.parametrize("multiplier", [1, 2, 3])
def test_from_conv_with_moments_is_better_on_those_moments(multiplier):
    conv, _ = convolution("plain")
    seen = moment(conv.weight[0].numel())

    def error(layer):
        depthwise = layer.depthwise.weight.reshape(conv.in_channels, multiplier, -1)
        pointwise = layer.pointwise.weight.reshape(conv.out_channels, conv.in_channels, multiplier)
        kernel = torch.einsum("oim,imk->oik", pointwise, depthwise).flatten(1)
        gap = conv.weight.flatten(1) - kernel
        return (gap @ seen @ gap.T).trace().item()

    blind = DepthwiseSeparableConv2d.from_conv(conv, multiplier=multiplier)
    fitted = DepthwiseSeparableConv2d.from_conv(conv, seen, multiplier=multiplier)
    assert error(fitted) < 0.9 * error(blind)


def test_from_conv_leaves_the_convolution_alone():
    conv, _ = convolution("padding 1")
    before = conv.weight.clone()
    layer = DepthwiseSeparableConv2d.from_conv(conv)
    assert torch.equal(conv.weight, before)
    assert layer.pointwise.bias.data_ptr() != conv.bias.data_ptr()


def test_from_conv_can_be_trained():
    conv, x = convolution("padding 1")
    layer = DepthwiseSeparableConv2d.from_conv(conv)
    layer(x).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_from_conv_refuses_a_grouped_convolution():
    with pytest.raises(ConvswapError, match="groups=1"):
        DepthwiseSeparableConv2d.from_conv(nn.Conv2d(4, 4, 3, groups=2))


@pytest.mark.parametrize("shape", [(7, 7), (36, 35), (36,)])
def test_from_conv_refuses_moments_of_another_size(shape):
    conv, _ = convolution("plain")  # 4 channels, 3x3: patches of 36
    with pytest.raises(ConvswapError, match="36"):
        DepthwiseSeparableConv2d.from_conv(conv, torch.ones(shape))


def test_from_conv_of_timms_own_padding_is_exact_or_refused():
    conv, x = convolution("timm's Conv2dSame")
    try:
        layer = DepthwiseSeparableConv2d.from_conv(conv, multiplier=9)
    except ConvswapError:
        return
    assert relative(layer(x), conv(x)) < TOLERANCE[conv.weight.dtype]


def test_the_state_goes_through_a_state_dict():
    first, second = (DepthwiseSeparableConv2d(3, 4, 3, multiplier=2) for _ in range(2))
    second.load_state_dict(first.state_dict())
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(first(x), second(x))
    assert set(first.state_dict()) == {"depthwise.weight", "pointwise.weight", "pointwise.bias"}
