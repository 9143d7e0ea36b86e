"""What kind of output a network has, and how far two of them are apart."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from convswap.errors import DataError
from convswap.network.calls import Batch, read_batch
from convswap.network.outputs import (
    Reference,
    divergence,
    energy,
    held_back,
    kl,
    output_kind,
    probe,
    tensors,
)


class Fixed(nn.Module):
    """Puts out what it was given, for every batch."""

    def __init__(self, output: object, num_classes: int | None = None):
        super().__init__()
        self.output = output
        if num_classes is not None:
            self.num_classes = num_classes

    def forward(self, x: Tensor) -> object:
        return self.output


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# kinds

ROWS = torch.randn(4, 5)
IMAGE = torch.zeros(4, 3, 8, 8)


@pytest.mark.parametrize(
    ("model", "batch", "kind"),
    [
        (Fixed(ROWS, num_classes=5), IMAGE, "logits"),
        (Fixed(ROWS, num_classes=0), IMAGE, "values"),
        (Fixed(ROWS, num_classes=7), (IMAGE, torch.tensor([0, 1, 2, 4])), "values"),
        (Fixed(ROWS), IMAGE, "values"),
        (Fixed(ROWS), (IMAGE, torch.tensor([0, 1, 2, 4])), "logits"),
        (Fixed(ROWS), [IMAGE, torch.tensor([0, 1, 2, 4])], "logits"),
        (Fixed(ROWS), (IMAGE, torch.tensor([0, 1, 2, 5])), "values"),
        (Fixed(ROWS), (IMAGE, torch.tensor([0, 1, 2, 3])), "values"),
        (Fixed(ROWS), (IMAGE, torch.tensor([-1, 1, 2, 4])), "values"),
        (Fixed(ROWS), (IMAGE, torch.tensor([0.0, 1, 2, 4])), "values"),
        (Fixed(ROWS), (IMAGE, torch.zeros(4, 2, dtype=torch.long)), "values"),
        (Fixed((ROWS, ROWS), num_classes=5), IMAGE, "values"),
        (Fixed(torch.randn(4, 5, 2, 2), num_classes=5), IMAGE, "values"),
        (Fixed([ROWS], num_classes=5), IMAGE, "logits"),
    ],
    ids=[
        "declared", "declared none", "declared others", "nothing known", "labels",
        "labels in a list", "label too large", "fewer classes than outputs",
        "label below zero", "float targets", "two columns",
        "two outputs", "maps", "one in a list",
    ],
)  # fmt: skip
def test_kind_is_logits_only_where_that_is_known(model: nn.Module, batch, kind: str):
    assert output_kind(model, [read_batch(model, batch)]) == kind


def test_torchvision_classifiers_put_out_logits():
    model = torchvision.models.squeezenet1_1(num_classes=5).eval()
    assert output_kind(model, [Batch((torch.zeros(1, 3, 64, 64),))]) == "logits"


def test_batch_without_a_tensor_is_refused():
    with pytest.raises(DataError, match="no tensor in a batch of type dict"):
        read_batch(Fixed(ROWS), {"image": "cat.jpg"})


def test_tensors_of_a_tree_come_in_order_without_integers():
    a, b, c = torch.zeros(1), torch.ones(2), torch.ones(3)
    tree = {"a": a, "rest": [b, (c, torch.arange(3), None, "label")]}
    assert [t.numel() for t in tensors(tree)] == [1, 2, 3]


# distances


@pytest.mark.parametrize("kind", ["logits", "values"])
def test_equal_outputs_are_no_distance_apart(kind: str):
    assert divergence(ROWS, ROWS, kind, energy([ROWS])).item() == pytest.approx(0, abs=1e-6)


def test_mean_output_is_one_away_from_values():
    outputs = [torch.randn(6, 3, 2), torch.randn(4, 3, 2)]
    whole = torch.cat(outputs)
    mean = whole.mean(0, keepdim=True).expand_as(whole)
    assert divergence(mean, whole, "values", energy(outputs)).item() == pytest.approx(1)


def test_scale_of_values_does_not_matter():
    a, b = torch.randn(6, 4), torch.randn(6, 4)
    near = divergence(a, b, "values", energy([b]))
    far = divergence(1000 * a, 1000 * b, "values", energy([1000 * b]))
    torch.testing.assert_close(near, far)


def test_outputs_of_a_tree_count_alike():
    a, b = torch.randn(6, 4), 100 * torch.randn(6, 2, 3)
    pair = divergence({"a": a * 0, "b": b}, {"a": a, "b": b}, "values", energy([{"a": a, "b": b}]))
    alone = divergence(a * 0, a, "values", energy([a]))
    torch.testing.assert_close(pair, alone / 2)


def test_constant_output_does_not_divide_by_zero():
    constant = torch.ones(4, 3)
    assert divergence(constant, constant, "values", energy([constant])).item() == 0


@pytest.mark.parametrize("shape", [(6,), (6, 1)], ids=["one number per image", "a column"])
def test_one_number_per_image_is_an_output(shape: tuple[int, ...]):
    output = torch.randn(shape)
    scale = energy([output[:3], output[3:]])
    assert scale == pytest.approx([output.var(correction=0).item()])
    moved = divergence(output + 1, output, "values", scale)
    assert moved.item() == pytest.approx(1 / scale[0], rel=1e-5)


def test_one_number_per_batch_is_an_output():
    outputs = [torch.tensor(1.0), torch.tensor(3.0)]
    scale = energy(outputs)
    assert scale == pytest.approx([1.0])
    assert divergence(
        torch.tensor(3.0), torch.tensor(1.0), "values", scale
    ).item() == pytest.approx(4)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_is_the_textbook_sum(temperature: float):
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    p, q = (F.softmax(t / temperature, 1) for t in (teacher, student))
    wanted = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(kl(student, teacher, temperature), wanted)


def test_divergence_of_logits_is_kl_and_can_be_trained_on():
    student = torch.randn(6, 5, requires_grad=True)
    loss = divergence(student, ROWS.repeat(2, 1)[:6], "logits", [])
    loss.backward()
    torch.testing.assert_close(loss, kl(student, ROWS.repeat(2, 1)[:6]))
    assert student.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_distance_is_a_float_for_any_dtype(dtype: torch.dtype):
    a, b = torch.randn(6, 4, dtype=dtype), torch.randn(6, 4, dtype=dtype)
    assert divergence(a, b, "values", energy([b])).dtype == torch.float32


# curvature


def mean_square_of_probe(output: Tensor, kind: str, direction: Tensor, draws: int) -> float:
    """1/2 E[(g d)^2] over the probe's random draws, for one image."""
    random, scale = generator(), energy([output])
    total = 0.0
    for _ in range(draws):
        leaf = output[:1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(probe(leaf, kind, scale, random), leaf)
        total += 0.5 * (gradient * direction).sum().item() ** 2 / draws
    return total


@pytest.mark.parametrize("kind", ["logits", "values"])
def test_probe_predicts_the_divergence_of_a_small_change(kind: str):
    output = torch.randn(8, 5)
    direction = 0.05 * torch.randn(1, 5)
    seen = divergence(output[:1] + direction, output[:1], kind, energy([output])).item()
    assert mean_square_of_probe(output, kind, direction, 4000) == pytest.approx(seen, rel=0.15)


def test_probe_is_the_same_for_the_same_seed():
    scale = energy([ROWS])
    draws = [probe(ROWS, "values", scale, generator(seed)).item() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


# images to judge by


@pytest.mark.parametrize(("sizes", "rest", "held"), [
    ([64] * 16, [64] * 14, [64, 64]),  # an eighth
    ([64, 64, 64, 64, 1], [64] * 3 + [33], [31, 1]),
    ([64], [48], [16]),  # of few as many as tell something
    ([6, 6, 6], [6, 3], [3, 6]),  # but not more than half
    ([1] * 8, [1] * 4, [1] * 4),
    ([3], [1], [2]), ([2], [], [2]), ([1], [], [1]),  # and two, if there are as many
])  # fmt: skip
def test_an_eighth_of_the_images_is_held_back_and_of_few_some_more(sizes, rest, held):
    every = torch.arange(float(sum(sizes))).unsqueeze(1)
    found = held_back([Batch((part,)) for part in every.split(sizes)])
    assert [[len(batch) for batch in some] for some in found] == [rest, held]
    parts = [batch.args[0] for some in found for batch in some]
    assert torch.equal(torch.cat(parts), every)


SURE = 30 * torch.eye(4)


@pytest.mark.parametrize(
    ("scores", "nats"),
    [(SURE, math.log(4)), (SURE[:1].expand(4, 4), 0.0), (0 * SURE, 0.0), (SURE / 2e4, 0.0)],
    ids=["each its own class", "all the same", "knows nothing", "hardly trained"],
)
def test_spread_is_what_images_tell_of_the_answers(scores: Tensor, nats: float):
    same = nn.Identity()
    reference = Reference(same, [read_batch(same, half) for half in scores.split(2)], "logits")
    assert reference.spread() == pytest.approx(nats, abs=1e-5)
