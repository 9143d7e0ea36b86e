"""What is remembered on the meta device is what PyTorch gives there."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convswap.network.cost import Counter
from convswap.network.known_shapes import KnownShapes

META = {"device": "meta"}


class Calls(nn.Module):
    """A function of its input."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


MODULES = {
    "batch norm": (nn.BatchNorm2d(4, **META), (2, 4, 5, 5)),
    "batch norm of channels last": (nn.BatchNorm2d(4, **META), (2, 5, 5, 4)),
    "layer norm": (nn.LayerNorm(5, **META), (2, 4, 5)),
    "layer norm over several axes": (nn.LayerNorm([4, 5], **META), (2, 4, 5)),
    "group norm": (nn.GroupNorm(2, 4, **META), (2, 4, 5, 5)),
    "GELU": (nn.GELU(approximate="tanh"), (2, 4)),
    "linear": (nn.Linear(5, 3, **META), (2, 4, 5)),
    "linear, laid out in another order": (nn.Linear(5, 3, **META), (2, 4, 5, 5)),
    "LSTM": (nn.LSTM(5, 3, bidirectional=True, batch_first=True, **META), (2, 4, 5)),
    "attention": (Calls(lambda x: F.scaled_dot_product_attention(x, x, x)), (2, 3, 4, 5)),
    "a sum": (Calls(lambda x: x + x.mT.mT), (2, 4, 5)),
    "a product with another type": (Calls(lambda x: x * x.double()), (2, 4, 5)),
    "several joined": (Calls(lambda x: torch.cat([x, x], 1)), (2, 4, 5)),
    "GRU": (nn.GRU(5, 3, num_layers=2, **META), (2, 4, 5)),
}


def described(output):
    tensors = torch.utils._pytree.tree_leaves(output)
    return [(t.shape, t.stride(), t.dtype, t.device) for t in tensors]


@pytest.mark.parametrize("name", MODULES)
@torch.no_grad()
def test_the_second_time_is_like_the_first(name):
    module, size = MODULES[name]
    x = torch.empty(size, **META)
    x = x.permute(0, 3, 1, 2) if "last" in name or "order" in name else x
    with Counter() as alone:
        wanted = module.eval()(x)
    with Counter() as counter, KnownShapes(counter):
        outputs = [module(x) for _ in range(3)]
        module(x[:1])  # of another shape
    assert [described(output) for output in outputs] == [described(wanted)] * 3
    assert counter.spared == 2 * alone.macs
    assert outputs[1] is not outputs[2]
    with Counter() as other:
        module(x[:1])
    assert counter.macs == 3 * alone.macs + other.macs


@torch.no_grad()
def test_the_type_of_a_number_counts():
    x = torch.ones(2, dtype=torch.int64, **META)
    with KnownShapes():
        assert [(x * n).dtype for n in (1, 1.0, True)] == [torch.int64, torch.float32, torch.int64]


def test_gradients_values_and_transforms_are_left_to_pytorch():
    x = torch.ones(2, 4, **META, requires_grad=True)
    with KnownShapes():
        for _ in range(2):
            assert torch.autograd.grad(F.gelu(x).sum(), x)[0].shape == (2, 4)
            with torch.no_grad():
                assert F.gelu(torch.ones(3)).sum() > 0
                assert torch.vmap(F.gelu)(x).shape == (2, 4)
