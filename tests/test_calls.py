"""Batches as users have them reach the network as it takes them."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convswap import (
    Budget,
    convert,
    count,
    distill,
    find_sites,
    load,
    plan,
    record_of,
    save,
)  # fmt: skip
from convswap.errors import ConvswapError, ModelError
from convswap.network.calls import read_batch, read_batches

X = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


class OneInput(nn.Module):
    """An image, and options that nobody gives."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        return scale * self.second(torch.tanh(self.first(x)))


class Siamese(OneInput):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (super().forward(a) - super().forward(b)).mean((2, 3))


class Denoiser(OneInput):
    """An image with a time step for each."""

    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = True) -> dict:
        return {"sample": super().forward(sample + timestep[:, None, None, None]), "step": timestep}


class KeywordOnly(OneInput):
    def forward(self, *, pixel_values: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().forward(pixel_values)


class Tokens(nn.Module):
    """Whole numbers in, a map of embeddings inside."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 64)
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids).unsqueeze(1)
        return self.second(F.gelu(self.first(x))).mean((2, 3))


class Spectrogram(OneInput):
    """Raw audio `[n, samples]` becomes a map."""

    def forward(self, waveform: Tensor) -> Tensor:
        x = waveform.unfold(1, 16, 8)[:, None].repeat(1, 3, 1, 1)
        return super().forward(x).mean((2, 3))


class Video(OneInput):
    """`[n, t, c, h, w]`, frame by frame."""

    def forward(self, video: Tensor) -> Tensor:
        return super().forward(video.flatten(0, 1)).unflatten(0, video.shape[:2]).mean((1, 3, 4))


class Bytes(OneInput):
    """Pixels 0..255, scaled inside."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float() / 255)


class ListOfImages(OneInput):
    """What detectors take; images may differ in size."""

    def forward(self, images: list[Tensor], targets: object = None) -> Tensor:
        return torch.stack(
            [super(ListOfImages, self).forward(i[None]).mean((0, 2, 3)) for i in images]
        )


Pair = namedtuple("Pair", "image label")
TOKENS = torch.randint(11, (6, 9), generator=torch.Generator().manual_seed(0))
AUDIO = torch.randn(6, 80, generator=torch.Generator().manual_seed(0))
VIDEO = torch.randn(6, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CASES = {
    "a tensor": (OneInput, X, False),
    "a tuple of one": (OneInput, (X,), False),
    "with labels": (OneInput, (X, LABELS), True),
    "in a list": (OneInput, [X, LABELS], True),
    "a named tuple": (OneInput, Pair(X, LABELS), True),
    "with masks, not labels": (OneInput, (X, torch.zeros(6, 8, 8)), False),
    "inputs in a tuple of their own": (Siamese, ((X, X.flip(0)), LABELS), True),
    "two inputs": (Siamese, (X, X.flip(0)), False),
    "two inputs and labels": (Siamese, (X, X.flip(0), LABELS), True),
    "two inputs by name": (Siamese, {"b": X, "a": X.flip(0), "label": LABELS}, True),
    "a step for each image": (Denoiser, (X, torch.arange(6)), False),
    "a step by name": (Denoiser, {"sample": X, "timestep": torch.arange(6)}, False),
    "keywords only": (KeywordOnly, {"pixel_values": X, "labels": LABELS}, True),
    "a mapping that is no dict": (KeywordOnly, UserDict(pixel_values=X, labels=LABELS), True),
    "names that forward lacks": (OneInput, {"image": X, "label": LABELS, "file": ["a"] * 6}, True),
    "whole numbers": (Tokens, TOKENS, False),
    "audio": (Spectrogram, (AUDIO, LABELS), True),
    "video": (Video, VIDEO, False),
    "bytes": (Bytes, (255 * X.sigmoid()).byte(), False),
    "a list of images": (ListOfImages, list(X), False),
    "a list of images with targets": (ListOfImages, (tuple(X), [{}] * 6), False),
    "another type of number": (OneInput, X.double(), False),
}


@pytest.mark.parametrize("case", CASES)
def test_inputs_and_labels_are_told_apart(case: str):
    make, given, labelled = CASES[case]
    batch = read_batch(make().eval(), given)
    assert len(batch) == 6
    assert (batch.labels is not None) is labelled
    some = batch.take(slice(1, 3))
    assert (len(some), some.labels is None or len(some.labels)) == (2, True if not labelled else 2)
    assert [len(part) for part in batch.split(4)] == [4, 2]


@pytest.mark.parametrize("case", CASES)
def test_any_call_is_planned_converted_and_distilled(case: str, tmp_path):
    make, given, _ = CASES[case]
    torch.manual_seed(0)
    model = make().eval()
    made = plan(model, [given, given], Budget(macs=0.6))
    small = convert(model, made, [given, given])
    assert count(small, given) == made.planned
    assert made.planned.macs <= 0.6 * made.dense.macs
    small = distill(small, model, [given, given])
    batch = read_batch(model, given)
    save(small, tmp_path / "out")
    again = load(tmp_path / "out", make())
    with torch.no_grad():
        a, b = batch.run(small), batch.run(again)
    if isinstance(a, dict):
        a, b = a["sample"], b["sample"]
    assert torch.equal(a, b)


def test_a_batch_is_passed_as_the_caller_says():
    model, batch = OneInput().eval(), {"meta": {"pixels": X}, "scale": 2.0}

    def call(network: nn.Module, batch: dict) -> Tensor:
        return network(batch["meta"]["pixels"], scale=batch["scale"])

    made = plan(model, [batch], Budget(macs=0.6), call=call)
    small = convert(model, made, [batch], call=call)
    assert count(small, X) == made.planned
    assert torch.equal(read_batch(model, batch, call).run(model), call(model, batch))


@pytest.mark.parametrize("batches", [X, [X], iter([X]), (x for x in X.split(3)), {"x": X}])
def test_batches_may_be_any_iterable_or_one_tensor(batches: object):
    model = OneInput().eval()
    found = read_batches(model, batches)
    assert torch.equal(torch.cat([batch.tensors[0] for batch in found]), X)


def test_a_large_tensor_is_split():
    found = read_batches(OneInput(), torch.zeros(200, 3, 8, 8))
    assert [len(batch) for batch in found] == [64, 64, 64, 8]


def test_the_inputs_are_not_written_to():
    class Writes(OneInput):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(2))

    kept = X.clone()
    read_batch(Writes(), X).run(Writes())
    assert torch.equal(X, kept)


@pytest.mark.parametrize("batch", ["cat.jpg", {"image": "cat.jpg"}, [], None, 3])
def test_a_batch_without_a_tensor_is_refused_in_one_line(batch: object):
    with pytest.raises(ConvswapError, match="no tensor in a batch of type") as caught:
        read_batch(OneInput(), batch)
    assert "\n" not in str(caught.value)


ODD = {
    "NaN": (lambda: [X, torch.full_like(X, torch.nan)], "batch . holds NaN or infinite values, first in sample 0"),
    "infinity": (lambda: [(X / 0, LABELS)], "batch . holds NaN or infinite values, first in sample 0"),
    "too large": (lambda: [1e20 * X, 1e20 * X], "is too large to be squared"),
    "no samples": (lambda: [X[:0]], "needs images"),
    "nothing": (list, "needs images"),
}


@pytest.mark.parametrize("case", ODD)
def test_inputs_that_cannot_be_fitted_to_are_refused_in_one_line(case: str):
    batches, says = ODD[case]
    with pytest.raises(ConvswapError, match=says) as caught:
        plan(OneInput().eval(), batches(), Budget(macs=0.6))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("sizes", [[1], [1, 1, 1], [3, 1]], ids=str)
def test_few_images_and_networks_of_other_types_are_converted(sizes: list[int], dtype):
    model, batches = OneInput().to(dtype).eval(), [X[:n] for n in sizes]
    made = plan(model, batches, Budget(macs=0.6))
    small = convert(model, made, batches)
    assert {parameter.dtype for parameter in small.parameters()} == {dtype}
    assert count(small, X) == made.planned


def test_batches_of_several_sizes_are_fitted_to():
    batches = [X, F.interpolate(X, (12, 10)), X[:2]]
    model = OneInput().eval()
    made = plan(model, batches, Budget(macs=0.6))
    small = convert(model, made, batches)
    damage = record_of(small).plans[-1].damage_measured
    assert 0 < damage < 1
    assert count(small, X) == made.planned


# outputs


@dataclass
class Prediction:
    scores: Tensor
    count: int
    hidden: tuple | None = None


OUTPUTS = {
    "dataclass": lambda y: Prediction(y, 3),
    "nested": lambda y: {"maps": [(y, None), {"deep": y.mean(1)}], "n": 3, "ids": torch.arange(5)},
    "deep dataclass": lambda y: [Prediction(y, 3, (Prediction(y.mean(), 1),))],
    "own mapping": lambda y: UserDict(y=y),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_any_tree_of_outputs_is_converted(kind: str):
    class Out(OneInput):
        def forward(self, x: Tensor) -> object:
            return OUTPUTS[kind](super().forward(x))

    model = Out().eval()
    made = plan(model, [X, X], Budget(macs=0.6))
    small = distill(convert(model, made, [X, X]), model, [X, X])
    assert count(small, X) == made.planned
    assert made.output == "values"


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (lambda y: None, "puts out no floating-point tensor"),
        (lambda y: y.argmax(1), "puts out no floating-point tensor"),
        (lambda y: y / 0, "puts out NaN or infinity"),
    ],
)
def test_outputs_that_cannot_be_compared_are_refused_in_one_line(output, says: str):
    class Out(OneInput):
        def forward(self, x: Tensor) -> object:
            return output(super().forward(x))

    with pytest.raises(ModelError, match=says):
        plan(Out().eval(), [X, X], Budget(macs=0.6))


# networks in a wrapper


class Compiled(nn.Module):
    """`model.compile()` was called."""

    def __new__(cls) -> nn.Module:
        model = OneInput()
        model.compile(backend="eager")
        return model


WRAPPERS = {
    "data parallel": lambda: nn.DataParallel(OneInput()),
    "torch.compile": lambda: torch.compile(OneInput(), backend="eager"),
    "both": lambda: nn.DataParallel(torch.compile(OneInput(), backend="eager")),
    "model.compile()": Compiled,
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrapped_networks_are_unwrapped(kind: str):
    model = WRAPPERS[kind]().eval()
    assert [site.path for site in find_sites(model, (3, 8, 8))[0]] == ["first", "second"]
    made = plan(model, [X], Budget(macs=0.6))
    small = convert(model, made, [X])
    assert type(small) is OneInput
    assert count(small, X) == made.planned


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_scripted_networks_are_refused_in_one_line():
    model = torch.jit.trace(OneInput().eval(), X)
    with pytest.raises(ModelError, match="has no modules that could be replaced"):
        plan(model, [X], Budget(macs=0.6))
