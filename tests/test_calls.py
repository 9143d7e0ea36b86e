"""Batches as users have them reach the network as it takes them."""

from __future__ import annotations

import threading
import weakref
from collections import UserDict, namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from helpers import relative
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.ops import deform_conv2d

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
from convswap.network.match import tensors
from convswap.plans import Choice
from convswap.recovery.reading import countable

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


class TwoKeywords(OneInput):
    def forward(self, *, mask: Tensor, image: Tensor) -> Tensor:
        return super().forward(image) * mask


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


class Guided(OneInput):
    """A map beside the image, or none; under the name that labels often have."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return super().forward(x if y is None else x * y)


class WithMore(OneInput):
    def forward(self, x: Tensor, **more: Tensor) -> Tensor:
        return super().forward(x * more["mask"] if more else x)


class TakesAny(OneInput):
    """Says nothing of its inputs."""

    def forward(self, *inputs):
        return super().forward(inputs[0] - inputs[1])


class GoesThrough(OneInput):
    """Any number of images, alike."""

    def forward(self, *images):
        seen = [OneInput.forward(self, x) * (at + 1) for at, x in enumerate(images)]
        return torch.stack(seen, 1)


class Unnamed(OneInput):
    def forward(self, x: Tensor, /, mask: Tensor | None = None) -> Tensor:
        return super().forward(x if mask is None else x * mask)


class Camera(OneInput):
    """One calibration for all images comes first."""

    def forward(self, camera: Tensor, image: Tensor) -> Tensor:
        return super().forward(image) * camera.sum()


class WholeBatch(OneInput):
    def forward(self, batch: dict) -> Tensor:
        return super().forward(batch["image"])


class MappingsOfImages(OneInput):
    """What a library of detectors passes: a dict for each image."""

    def forward(self, batched_inputs: list[dict]) -> Tensor:
        return super().forward(torch.stack([one["image"] for one in batched_inputs]))


class Pyramid(OneInput):
    """Takes maps of several sizes, and does not say so."""

    def forward(self, x):
        return torch.stack([OneInput.forward(self, level).mean((2, 3)) for level in x]).sum(0)


class Held:
    """Images and what belongs to them, of a class of the user's own."""

    def __init__(self, tensors, mask):
        self.tensors, self.mask, self.itself = tensors, mask, [self]


class TakesHeld(OneInput):
    def forward(self, samples):
        return super().forward(samples.tensors * ~samples.mask[:, None])


class Waves(nn.Module):
    """Audio of several lengths; does not say that it takes a list."""

    def __init__(self, channels: int = 1):
        super().__init__()
        self.first = nn.Conv1d(channels, 8, 5, padding=2)
        self.second = nn.Conv1d(8, 8, 5, padding=2)

    def whole(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))

    def forward(self, waves):
        return torch.stack([self.whole(wave.reshape(1, 1, -1)).mean((0, 2)) for wave in waves])


class SaidWaves(Waves):
    def forward(self, waves: list[Tensor]) -> Tensor:
        return super().forward(waves)


class EachImage(OneInput):
    """Goes through images one by one; does not say that it takes a list."""

    def forward(self, images):
        return torch.stack([OneInput.forward(self, x[None]).mean((0, 2, 3)) for x in images])


class TwoWaves(Waves):
    def forward(self, left, right) -> Tensor:
        return super().forward(left) - super().forward(right)


class TakesApart(Siamese):
    def forward(self, pair):
        first, second = pair
        return super().forward(first, second)


class TakesNames(OneInput):
    def forward(self, given):
        return super().forward(given["rgb"]) * given["gain"]


class Texts(OneInput):
    """A text beside each image."""

    def forward(self, x: Tensor, texts: list[str]) -> Tensor:
        return super().forward(x) * torch.tensor([len(text) for text in texts])[:, None, None, None]


class Padded(Waves):
    """Sequences are padded to the longest, whose length makes the mask."""

    def __init__(self):
        super().__init__(4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        return self.whole(x.mT) * mask[:, None]


class Bag(Tokens):
    """The words of all samples stand in one row."""

    def __init__(self, last: bool = False):
        super().__init__()
        self.embed = nn.EmbeddingBag(11, 64, include_last_offset=last)

    def forward(self, text: Tensor, offsets: Tensor) -> Tensor:
        x = self.embed(text, offsets).reshape(-1, 1, 8, 8)
        return self.second(F.gelu(self.first(x))).mean((2, 3))


Pair = namedtuple("Pair", "image label")
TOKENS = torch.randint(11, (6, 9), generator=torch.Generator().manual_seed(0))
AUDIO = torch.randn(6, 80, generator=torch.Generator().manual_seed(0))
VIDEO = torch.randn(6, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
WAVES = [AUDIO[at, :length] for at, length in enumerate((40, 55, 32, 61, 47, 50))]
SEQUENCES = torch.randn(6, 20, 4, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([12, 20, 7, 19, 15, 10])
WORDS, STARTS = TOKENS.flatten()[:40], torch.tensor([0, 3, 9, 20, 21, 30])
MAPS = [X, X[..., ::2, ::2], X[..., ::4, ::4]]
CASES = {
    "a tensor": (OneInput, X, False),
    "a tuple of one": (OneInput, (X,), False),
    "with labels": (OneInput, (X, LABELS), True),
    "in a list": (OneInput, [X, LABELS], True),
    "a named tuple": (OneInput, Pair(X, LABELS), True),
    "after their names": (OneInput, (tuple("abcdef"), X, LABELS), True),
    "with masks, not labels": (OneInput, (X, torch.zeros(6, 8, 8)), False),
    "inputs in a tuple of their own": (Siamese, ((X, X.flip(0)), LABELS), True),
    "two inputs": (Siamese, (X, X.flip(0)), False),
    "two inputs and labels": (Siamese, (X, X.flip(0), LABELS), True),
    "two inputs by name": (Siamese, {"b": X, "a": X.flip(0), "label": LABELS}, True),
    "a step for each image": (Denoiser, (X, torch.arange(6)), False),
    "a step by name": (Denoiser, {"sample": X, "timestep": torch.arange(6)}, False),
    "keywords only": (KeywordOnly, {"pixel_values": X, "labels": LABELS}, True),
    "keywords only, one named": (TwoKeywords, {"x": X, "mask": X[:, :1], "label": LABELS}, True),
    "keywords only, not named": (KeywordOnly, (X, LABELS), True),
    "a mapping that is no dict": (KeywordOnly, UserDict(pixel_values=X, labels=LABELS), True),
    "names that forward lacks": (OneInput, {"image": X, "label": LABELS, "file": ["a"] * 6}, True),
    "whole numbers": (Tokens, TOKENS, False),
    "audio": (Spectrogram, (AUDIO, LABELS), True),
    "video": (Video, VIDEO, False),
    "bytes": (Bytes, (255 * X.sigmoid()).byte(), False),
    "a list of images": (ListOfImages, list(X), False),
    "a list of images with targets": (ListOfImages, (tuple(X), [{}] * 6), False),
    "another type of number": (OneInput, X.double(), False),
    "an array": (OneInput, X.numpy(), False),
    "arrays with labels": (OneInput, (X.numpy(), LABELS.numpy()), True),
    "a map named y": (Guided, {"x": X, "y": X.flip(0)}, False),
    "labels named y": (Guided, {"x": X, "y": LABELS}, True),
    "more by name": (WithMore, {"x": X, "mask": X.flip(0), "label": LABELS}, True),
    "an image of another name, and more": (Guided, {"image": X, "y": X.flip(0)}, False),
    "any number": (TakesAny, (X, X.flip(0), LABELS), True),
    "one after another": (GoesThrough, (X, X.flip(0), X, LABELS), True),
    "one after another, in a tuple": (GoesThrough, ((X, X.flip(0), X), LABELS), True),
    "by place, not by name": (Unnamed, {"x": X, "mask": X.flip(0), "label": LABELS}, True),
    "one for all first": (Camera, (torch.eye(3), X), False),
    "the whole mapping": (WholeBatch, {"image": X, "label": LABELS}, True),
    "maps of a pyramid": (Pyramid, MAPS, False),
    "maps of a pyramid with labels": (Pyramid, (MAPS[:2], LABELS), True),
    "one map in a list": (Pyramid, ([X], LABELS), True),
    "two views": (OneInput, ((X, X.flip(0)), LABELS), True),
    "an image and targets of two sizes": (OneInput, (X, *MAPS[:2]), False),
    "taken apart": (TakesApart, (X, X.flip(0)), False),
    "taken apart, with labels": (TakesApart, ([X, X.flip(0)], LABELS), True),
    "asked for by name": (TakesNames, {"rgb": X, "gain": torch.tensor(2.0), "label": LABELS}, True),
    "maps that become larger": (Pyramid, (MAPS[::-1],), False),
    "views in a list": (Pyramid, [X, X.flip(0)], False),
    "views in a list, with labels": (Pyramid, ([X, X.flip(0), X[..., ::2, ::2]], LABELS), True),
    "in an object": (TakesHeld, Held(X, X[:, 0] > 1), False),
    "in an object, with labels": (TakesHeld, (Held(X, X[:, 0] > 1), LABELS), True),
    "words for each": (Texts, (X, ["a", "bb", "ccc", "a", "bb", "a"], LABELS), True),
    "waves": (Waves, WAVES, False),
    "waves with labels": (Waves, (WAVES, LABELS), True),
    "waves by name": (Waves, {"waves": WAVES, "label": LABELS}, True),
    "waves of another name": (Waves, {"audio": WAVES, "label": LABELS}, True),
    "waves, as the network says": (SaidWaves, [wave[:32] for wave in WAVES], False),
    "waves of one length": (Waves, [wave[:32] for wave in WAVES], False),
    "images one by one": (EachImage, (list(X), LABELS), True),
    "two lists of waves": (TwoWaves, (WAVES, WAVES[::-1], LABELS), True),
    "padded": (Padded, (SEQUENCES, LENGTHS), False),
    "padded, by name": (Padded, {"x": SEQUENCES, "lengths": LENGTHS, "label": LABELS}, True),
    "words in one row": (Bag, (WORDS, STARTS, LABELS), True),
    "words in one row, with the end": (
        lambda: Bag(last=True),
        {"text": WORDS, "offsets": torch.cat([STARTS, torch.tensor([40])])},
        False,
    ),
    "a mapping for each": (MappingsOfImages, [{"image": x, "height": 8} for x in X], False),
}
PASSED = {
    "a map named y": lambda m: m(X, X.flip(0)),
    "labels named y": lambda m: m(X),
    "more by name": lambda m: m(X, mask=X.flip(0)),
    "an image of another name, and more": lambda m: m(X, X.flip(0)),
    "any number": lambda m: m(X, X.flip(0)),
    "one after another": lambda m: m(X, X.flip(0), X),
    "one after another, in a tuple": lambda m: m(X, X.flip(0), X),
    "by place, not by name": lambda m: m(X, X.flip(0)),
    "one for all first": lambda m: m(torch.eye(3), X),
    "maps of a pyramid": lambda m: m(MAPS),
    "one map in a list": lambda m: m([X]),
    "in an object": lambda m: m(Held(X, X[:, 0] > 1)),
    "views in a list": lambda m: m([X, X.flip(0)]),
    "views in a list, with labels": lambda m: m([X, X.flip(0), X[..., ::2, ::2]]),
}


@pytest.mark.parametrize("case", PASSED)
def test_all_that_is_input_reaches_the_network(case: str):
    make, given, _ = CASES[case]
    model = make().eval()
    assert torch.equal(read_batch(model, given).run(model), PASSED[case](model))
    assert plan(model, [given, given], Budget(macs=0.6)).notes == ()


@pytest.mark.parametrize(
    ("make", "batch", "name"),
    [
        (OneInput, (X, X.flip(0)), "mask"),
        (OneInput, (X, *MAPS[:2]), "mask"),
        (Guided, (X, X.flip(0), LABELS), "y"),
        (lambda: WithMore(), {"image": X, "depth": X}, "depth"),
    ],
)
def test_what_could_have_been_passed_and_was_not_is_said(make, batch: object, name: str):
    [note] = plan(make().eval(), [batch, batch], Budget(macs=0.6)).notes
    assert note.startswith(f"not passed to the network: {name};")


def test_what_was_not_passed_is_named_where_a_network_fails_without():
    class Beside(Guided):
        def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
            return super().forward(x) * y

    with pytest.raises(ModelError, match="y came with it and was not passed: say how with call="):
        plan(Beside(), [(X, X.flip(0))], Budget(macs=0.6))


class InList(OneInput):
    """Some of its layers are in a list of Python's own."""

    def __init__(self):
        super().__init__()
        self.more, self.acts = [nn.Conv2d(8, 8, 1)], [nn.ReLU()]

    def forward(self, x: Tensor) -> Tensor:
        return self.more[0](super().forward(x))


def test_layers_that_pytorch_does_not_know_of_are_told():
    [note] = plan(InList().eval(), [X, X], Budget(macs=0.6)).notes
    assert note.startswith("more: layers in lists or mappings of Python's own are no part")


@dataclass
class Sample:
    x: Tensor


@pytest.mark.parametrize(
    ("batch", "call"),
    [
        (Sample(X), lambda model, batch: model(batch.x)),
        (UserDict(x=X), lambda model, batch: model(batch["x"])),
        (X.numpy(), lambda model, batch: model(torch.from_numpy(batch))),
        ([{"x": x} for x in X], lambda model, batch: model(torch.stack([s["x"] for s in batch]))),
    ],
    ids=["a dataclass", "a mapping", "an array", "mappings"],
)
def test_batches_of_any_make_are_passed_by_call(batch: object, call):
    model = OneInput().eval()
    made = plan(model, [batch], Budget(macs=0.6), call=call)
    assert made.dense == count(model, X)
    small = convert(model, made, [batch], call=call)
    assert count(small, X) == made.planned


@pytest.mark.parametrize("case", CASES)
def test_inputs_and_labels_are_told_apart(case: str):
    make, given, labelled = CASES[case]
    batch = read_batch(make().eval(), given)
    assert len(batch) == 6
    assert (batch.labels is not None) is labelled
    some = batch.take(slice(1, 3))
    assert (len(some), some.labels is None or len(some.labels)) == (2, True if not labelled else 2)
    assert [len(part) for part in batch.split(4)] == [4, 2]


@pytest.mark.parametrize("case", [case for case in CASES if "waves" in case or "words" in case])
def test_some_samples_give_what_they_gave_among_all(case: str):
    make, given, _ = CASES[case]
    model = make().eval()
    batch = read_batch(model, given)
    together = batch.run(model)
    for some in (slice(2, 5), [5, 0]):
        assert relative(batch.take(some).take([1]).run(model), together[some][1:2]) < 1e-6


def test_numbers_that_only_look_like_lengths_trim_nothing():
    class Lens(OneInput):
        def forward(self, x: Tensor, lens: Tensor) -> Tensor:
            return super().forward(x) * lens[:, None, None, None]

    [batch] = read_batches(Lens(), [(X, torch.tensor([1, 8, 3, 4, 5, 2]))])
    assert torch.equal(batch.take([0, 2]).args[0], X[[0, 2]])


def test_padding_is_as_long_as_the_longest_sample_taken():
    [batch] = read_batches(Padded(), [(SEQUENCES, LENGTHS)])
    some = batch.take([0, 2])
    assert torch.equal(some.args[0], SEQUENCES[[0, 2], :12])
    assert some.args[1].tolist() == [12, 7]


@pytest.mark.parametrize("case", CASES)
def test_any_call_is_planned_converted_and_distilled(case: str, tmp_path):
    make, given, _ = CASES[case]
    torch.manual_seed(0)
    model = make().eval()
    made = plan(model, [given, given], Budget(macs=0.6))
    small = convert(model, made, [given, given])
    assert count(small, given) == made.planned
    assert made.planned.macs <= 0.6 * made.dense.macs
    said: list[str] = []
    small = distill(small, model, [given, given], 1, tell=said.append)
    assert all("nothing is gained" in line for line in said)  # two steps may be too few
    batch = read_batch(model, given)
    save(small, tmp_path / "out")
    again = load(tmp_path / "out", make())
    with torch.no_grad():
        a, b = batch.run(small), batch.run(again)
    if isinstance(a, dict):
        a, b = a["sample"], b["sample"]
    assert torch.equal(a, b)


# batches whose samples cannot be told apart


class Graph(OneInput):
    """A small image at each node, and edges between them."""

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return self.second(x.index_add(0, edges[1], x[edges[0]]))


class SparseGraph(OneInput):
    """Edges are a sparse matrix."""

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return self.second((edges @ x.flatten(1)).reshape(x.shape))


class Row(Waves):
    """All sequences stand in one row, with their bounds."""

    def __init__(self):
        super().__init__(4)

    def forward(self, x: Tensor, bounds: Tensor) -> Tensor:
        parts = [x[a:b] for a, b in pairwise(bounds.tolist())]
        return torch.cat([self.whole(part.mT[None]).mean(2) for part in parts])


class Packed(Waves):
    def __init__(self):
        super().__init__(4)

    def forward(self, x: PackedSequence) -> Tensor:
        return self.whole(pad_packed_sequence(x, batch_first=True)[0].mT)


class Halves(OneInput):
    """Compares the first half of a batch with the second."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(super().forward(x).chunk(2)).diff(dim=0)[0]


class OneImage(OneInput):
    """Takes an image without an axis of samples."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[None])[0]


EDGES = torch.tensor([[0, 1, 2, 2, 5, 4, 3], [1, 2, 0, 3, 4, 5, 3]])
PACKED = pack_padded_sequence(SEQUENCES, LENGTHS, batch_first=True, enforce_sorted=False)
UNDIVIDED = {
    "a graph": (Graph, [(X, EDGES), (X[:4], EDGES[:, :4])]),
    "a sparse graph": (SparseGraph, [(X, torch.eye(6).to_sparse())] * 2),
    "one row": (Row, [(SEQUENCES[0], torch.tensor([0, 5, 13, 20]))] * 2),
    "a packed sequence": (Packed, [PACKED] * 2),
    "halves": (Halves, [X, X.flip(0)]),
    "one image of any size": (OneImage, [X[0], X[1, :, :6], X[2, ..., :7]]),
}


@pytest.mark.parametrize("case", UNDIVIDED)
def test_where_samples_cannot_be_told_apart_a_batch_counts_as_one(case: str):
    make, batches = UNDIVIDED[case]
    model = make().eval()
    made = plan(model, batches, Budget(macs=0.6))
    assert made.notes == ("the samples of a batch cannot be told apart: each batch counts as one",)
    small = convert(model, made, batches)
    assert count(small, batches[0]) == made.planned
    distill(small, model, batches, 1, tell=lambda line: None)


def test_nested_tensors_are_refused_in_one_line():
    nested = torch.nested.nested_tensor(WAVES, layout=torch.jagged)
    with pytest.raises(ConvswapError, match="holds a nested tensor - give a list of tensors"):
        plan(Waves(), [nested], Budget(macs=0.6))


# networks that keep something from one call to the next


class Recurrent(OneInput):
    state = None

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        if self.state is not None and self.state.shape == x.shape:
            x = x + self.state / 2
        self.state = x
        return self.second(x)


class Running(OneInput):
    """A running mean, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        mean, _ = self.mean.clone(), self.mean.copy_(x.mean((0, 2, 3), keepdim=True))
        return self.second(x - mean)


class FirstSize(OneInput):
    """Takes what is as large as the first that it got."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(x.shape)
        return super().forward(x.reshape(self.sizes[0]))


class Cached(OneInput):
    """Nobody sees what it keeps."""

    grid = None

    def forward(self, x: Tensor) -> Tensor:
        if self.grid is None or self.grid.shape != x.shape:
            self.grid = torch.full_like(x, 0.5)
        return super().forward(x * self.grid)


class Gathers(Recurrent):
    """Puts out a mapping of its own."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def forward(self, x: Tensor) -> dict:
        self.found.clear()
        self.found["y"] = super().forward(x)
        return self.found


@pytest.mark.parametrize("make", [Recurrent, Running, FirstSize, Gathers, Cached])
def test_every_batch_finds_a_network_as_it_was_given(make):
    model, batches = make().eval(), [X, X.flip(0), X[:3]]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = plan(model, batches, Budget(macs=0.6))
    assert [make.__name__ in note for note in made.notes] == [True] * (make is not Cached)
    small = distill(convert(model, made, batches), model, batches, 1, tell=lambda line: None)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    found = read_batches(small, batches)
    outputs = [tensors(batch.run(small)) for batch in [*found, found[0]]]
    assert all(map(torch.equal, outputs[0], outputs[-1]))
    assert outputs[0][0].shape == (6, 8, 8, 8)


def test_a_batch_is_passed_as_the_caller_says():
    model, batch = OneInput().eval(), {"meta": {"pixels": X}, "scale": 2.0}

    def call(network: nn.Module, batch: dict) -> Tensor:
        return network(batch["meta"]["pixels"], scale=batch["scale"])

    made = plan(model, [batch], Budget(macs=0.6), call=call)
    small = convert(model, made, [batch], call=call)
    assert count(small, X) == made.planned
    assert torch.equal(read_batch(model, batch, call).run(model), call(model, batch))


@pytest.mark.parametrize(
    "batches",
    [
        X, [X], iter([X]), (x for x in X.split(3)), {"x": X}, X.numpy(), TensorDataset(X, LABELS),
        X.flip(3).numpy()[..., ::-1],
    ],
)  # fmt: skip
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
    "NaN": (
        lambda: [X, torch.full_like(X, torch.nan)],
        "batch . holds NaN or infinite values, first in",
    ),
    "infinity": (
        lambda: [(X / 0, LABELS)],
        "batch . holds NaN or infinite values, first in",
    ),
    "too large": (lambda: [1e20 * X, 1e20 * X], "is too large to be squared"),
    "no values": (lambda: [X.to("meta")], "batch 0 is on the meta device"),
    "a nested tensor": (
        lambda: [torch.nested.nested_tensor([X[0], X[1]], layout=torch.strided)],
        "batch 0 holds a nested tensor",
    ),
    "numbers that PyTorch does not know": (
        lambda: X.numpy().astype("longdouble"),
        "no tensor in a batch",
    ),
    "no samples": (lambda: [X[:0]], "needs images"),
    "nothing": (list, "needs images"),
    "none": (lambda: None, "NoneType holds no batches"),
    "a number": (lambda: 3, "int holds no batches"),
    "a function": (lambda: lambda: [X], "function holds no batches"),
    "a loader's class": (lambda: DataLoader, "type holds no batches"),
    "pictures": (lambda: [Image.new("RGB", (8, 8))], "as the network's transforms make them"),
    "a dataset of pictures": (lambda: Samples(Image.new("RGB", (8, 8))), "Samples do not make a b"),
    "a dataset of several sizes": (
        lambda: Samples(X[0], X[0, :, :4]),
        "Samples do not make a batch: stack expects",
    ),
}


class Samples(Dataset):
    def __init__(self, *samples: object):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> object:
        return self.samples[index]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
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


class HalfTrunk(nn.Module):
    """A small part in another type comes first."""

    def __init__(self):
        super().__init__()
        self.colours, self.trunk = nn.Conv2d(3, 3, 1), OneInput().half()

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(self.colours(x).half())


def test_inputs_have_the_type_of_the_first_layer():
    made = plan(HalfTrunk(), [X, X], Budget(macs=0.6))
    small = convert(HalfTrunk(), made, [X, X])
    assert small(X).dtype == torch.float16
    assert {p.dtype for p in small.parameters()} == {torch.float16, torch.float32}


class Kept(nn.Conv2d):
    """Its weight is kept in a type, and cast to that of the input."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class Casts(OneInput):
    def __init__(self, kept: torch.dtype, computed: torch.dtype):
        super().__init__()
        self.first = Kept(3, 8, 3, padding=1, dtype=kept)
        self.second = Kept(8, 8, 3, padding=1, dtype=kept)
        self.computed = computed

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.computed)).float()


@pytest.mark.parametrize(
    ("kept", "computed"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
    ],
)
def test_weights_kept_in_one_type_and_computed_in_another_are_replaced(kept, computed, tmp_path):
    model = Casts(kept, computed).eval()
    made = plan(model, [X, X.flip(0)], Budget(macs=0.6))
    assert made.choices[0].dtype == str(computed)[6:]
    small = convert(model, made, [X, X.flip(0)])
    assert count(small, X) == made.planned
    assert relative(small(X), model(X)) < 0.9
    small = distill(small, model, [X, X.flip(0)], 1, tell=lambda line: None)
    save(small, tmp_path / "out")
    again = load(tmp_path / "out", Casts(kept, computed))
    assert torch.equal(again(X), small(X))


class MatMul(nn.Conv2d):
    """Computes in its own way, and in another type."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.unfold(x, 3).float()
        return (self.weight.flatten(1).float() @ x).unflatten(2, (4, 4))


class Masked(nn.Conv2d):
    """Takes a mask, which may be left out."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x if mask is None else x * mask)


class GivesAMask(OneInput):
    def __init__(self):
        super().__init__()
        self.first = Masked(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x, mask=(x > 0.5).float())))


class InsideVmap(OneInput):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.vmap(lambda one: self.first(one[None])[0])(x))


class InThreads(OneInput):
    def forward(self, x: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(self.second, torch.tanh(self.first(x))).result()


class Forked(OneInput):
    def forward(self, x: Tensor) -> Tensor:
        return torch.jit.wait(torch.jit.fork(self.second, torch.tanh(self.first(x))))


class InsideGrad(OneInput):
    def forward(self, x: Tensor) -> Tensor:
        return torch.func.grad(lambda x: super(InsideGrad, self).forward(x).sum())(x)


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize(
    ("make", "path", "says"),
    [
        (InsideVmap, "first", "inside of a function that torch.func transforms"),
        (InsideGrad, "second", "inside of a function that torch.func transforms"),
        (GivesAMask, "first", "forward gives it more than what it reads"),
        (InThreads, "second", "it runs in a thread of its own"),
        (Forked, "second", "it runs in a thread of its own"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3), MatMul(8, 8, 3).half()), "1",
            "its weight is float16, and it reads float32",
        ),
    ],
)  # fmt: skip
def test_why_a_layer_is_left_alone_is_said(make, path: str, says: str):
    reasons = {site.path: site.reason for site in find_sites(make().eval(), X)[0]}
    assert says in reasons[path]


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


class Own:
    """An object of a class that nobody knows."""

    def __init__(self, scores: Tensor):
        self.scores, self.again, self.itself, self.name = scores, scores, self, "own"


class Slots:
    __slots__ = ("scores",)

    def __init__(self, scores: Tensor):
        self.scores = scores


OUTPUTS = {
    "own object": Own,
    "object with slots": lambda y: {"found": Slots(y)},
    "namespace": lambda y: SimpleNamespace(scores=y, count=3),
    "distribution": lambda y: torch.distributions.Normal(y, y.exp()),
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
    small = distill(convert(model, made, [X, X]), model, [X, X], 1, tell=lambda line: None)
    assert count(small, X) == made.planned
    assert made.output == "values"


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (lambda y: y / 0, "puts out NaN or infinity"),
        (lambda y: (each for each in y), r"puts out a generator.* \[\*model\(batch\)\]"),
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


class CompiledForward(OneInput):
    @torch.compile(backend="eager")
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class CompiledItself(OneInput):
    def __init__(self):
        super().__init__()
        self.forward = torch.compile(self.forward, backend="eager")


class CompiledMethod(OneInput):
    """Of what forward calls one is compiled where it is written, one where it is put together."""

    def __init__(self):
        super().__init__()
        self.end = torch.compile(self._end, backend="eager")

    @torch.compile(backend="eager")
    def _start(self, x: Tensor) -> Tensor:
        return torch.tanh(self.first(x))

    def _end(self, x: Tensor) -> Tensor:
        return self.second(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self._start(x))


class CompiledPart(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = torch.compile(OneInput(), backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)


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


@pytest.mark.parametrize("make", [CompiledForward, CompiledItself, CompiledMethod, CompiledPart])
def test_compiled_parts_are_unwrapped_on_a_copy(make):
    model = make().eval()
    made = plan(model, [X], Budget(macs=0.6))
    small = convert(model, made, [X])
    assert count(small, X) == made.planned
    if make is CompiledPart:
        assert type(small.part) is OneInput
        assert type(model.part) is not OneInput


class Locked(OneInput):
    """Keeps what cannot be copied, and holds it while it runs."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return super().forward(x)


class Forbids(OneInput):
    """Is not to be copied, nor pickled."""

    def __deepcopy__(self, memo: dict) -> nn.Module:
        raise RuntimeError("there is one of these")

    def __getstate__(self) -> dict:
        raise NotImplementedError


class HoldsOne(nn.Module):
    """A part of it forbids being copied."""

    def __init__(self):
        super().__init__()
        self.part = Forbids()
        self.part.itself = [self.part]

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)


class Causal(OneInput):
    """Attends to what comes before, by a mask that is infinite."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((64, 64), -torch.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        seen = x.flatten(2)
        weights = (seen.mT @ seen + self.mask).softmax(2)
        return self.second((seen @ weights.mT).reshape(x.shape))


class Spare(OneInput):
    """A parameter of no numbers, as a width of zero makes them."""

    def __init__(self):
        super().__init__()
        self.spare = nn.Parameter(torch.zeros(0, 8))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.spare.sum()


class Forgetful(OneInput):
    """`train` gives nothing back, as in many libraries."""

    def train(self, mode: bool = True) -> None:
        super().train(mode)


class HeadOnly(OneInput):
    """Says that only its head has parameters."""

    def parameters(self, recurse: bool = True):
        return self.second.parameters(recurse)


class Counting(OneInput):
    """Counts its calls in a buffer, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return super().forward(x)


class Late(OneInput):
    """Makes a buffer when it first runs."""

    ready = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.ready:
            self.register_buffer("grid", torch.linspace(0, 1, x.shape[-1], device=x.device))
            self.ready = True
        return super().forward(x * self.grid)


class Grows(OneInput):
    """A buffer becomes as long as what is seen."""

    def __init__(self):
        super().__init__()
        self.register_buffer("grid", torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        if len(self.grid) < x.shape[-1]:
            self.grid = torch.linspace(0, 1, x.shape[-1], device=x.device)
        return super().forward(x * self.grid[: x.shape[-1]])


class LateLayer(OneInput):
    """Makes a layer when it first runs."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        if not hasattr(self, "third"):
            self.third = nn.Conv2d(x.shape[1], 8, 3, padding=1, device=x.device)
        return self.third(torch.tanh(x))


class Second(nn.Module):
    """Runs its parent's layer, which it knows by a weak reference."""

    def __init__(self, parent: nn.Module):
        super().__init__()
        self.parent = weakref.ref(parent)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.tanh(self.parent().first(x)))


class KnowsItsParent(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = Second(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(x)


class Checkpointed(OneInput):
    """By the kind of checkpoint that only `backward` knows."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(checkpoint(lambda x: torch.tanh(self.first(x)), x, use_reentrant=True))


class Draws(OneInput):
    """Drops at random whatever the mode is."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.dropout(torch.tanh(self.first(x)), 0.5, training=True))


class Spectrum(OneInput):
    """Puts out complex numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(super().forward(x))


class Scaled(OneInput):
    """One number of another type stands first."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.scale.float())


class Scripted(OneInput):
    """Its activations are a scripted function, which Python does not copy, and a scripted module,
    which takes no hooks."""

    def __init__(self):
        super().__init__()
        self.act, self.last = torch.jit.script(tanh), torch.jit.script(nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.act(self.first(x))))


def tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


class Filtered(OneInput):
    """Complex weights in the frequency domain."""

    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.ones(5, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.fft.irfft(torch.fft.rfft(x) * self.filter, x.shape[-1]))


class Numbered(OneInput):
    """A whole number among its parameters."""

    def __init__(self):
        super().__init__()
        self.version = nn.Parameter(torch.tensor(3), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / self.version)


class Deformed(OneInput):
    """Looks where a convolution says: anywhere, before that is fitted."""

    def __init__(self):
        super().__init__()
        self.where = nn.Conv2d(8, 18, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return deform_conv2d(x, self.where(x), self.second.weight, padding=1)


class Slices(OneInput):
    """Changes in place what gradients need."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x[:, ::2] = x[:, ::2] * torch.sigmoid(x[:, 1::2])
        return self.second(x * x.tanh_())


class Force(OneInput):
    """Puts out a gradient, in eval mode one that cannot be differentiated."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = super().forward(x).square().sum()
            return torch.autograd.grad(energy, x, create_graph=self.training)[0]


def in_inference_mode() -> nn.Module:
    """Its tensors know no gradients."""
    with torch.inference_mode():
        return OneInput()


class Normed(OneInput):
    """Its batch norm has seen something, and a hook runs with it."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(torch.tanh(self.first(x))))


def traced() -> nn.Module:
    """Copies of it come back in train mode, and without what was attached."""
    model = torch.fx.symbolic_trace(Normed().eval())
    model.register_forward_hook(lambda module, args, output: 2 * output)
    return model


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated", "ignore:None of the inputs")
@pytest.mark.parametrize(
    "make",
    [
        traced, Locked, Forbids, HoldsOne, Causal, Spare, Forgetful, HeadOnly, Counting, Late,
        Grows, LateLayer, KnowsItsParent, Draws, Spectrum, Scaled, Scripted, Filtered, Numbered,
        Deformed, Slices, Force, Checkpointed, in_inference_mode,
    ],
)  # fmt: skip
def test_odd_habits_are_lived_with(make, tmp_path):
    model = make()
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = plan(model, [X, X.flip(0)], Budget(macs=0.6))
    small = convert(model, made, [X, X.flip(0)])
    assert type(small) is type(model) or make is traced
    assert not any(module.training for module in small.modules())
    assert count(small, X) == made.planned
    assert record_of(small).plans[-1].damage_measured > 0
    better = distill(small, model, [X, X.flip(0)], epochs=1, tell=lambda line: None)
    assert record_of(better).plans
    assert not made.notes
    save(better, tmp_path / "out")
    again = load(tmp_path / "out", make())
    if make is not Draws:
        assert torch.equal(again(X), better(X))
    now = model.state_dict()
    assert make is Grows or all(torch.equal(value, now[name]) for name, value in before.items())


class KnownById(OneInput):
    """What is done to a layer's output is in a table of its own."""

    def __init__(self):
        super().__init__()
        self.scales = {id(self.first): 2.0}

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)) * self.scales.get(id(self.first), 1.0))


class Listed(OneInput):
    """Forgets what it kept by a list of all of its class, in which copies are not."""

    every: ClassVar[list] = []

    def __init__(self):
        super().__init__()
        self.every.append(self)
        self.kept = 0.0

    def forward(self, x: Tensor) -> Tensor:
        for each in self.every:
            each.kept = 0.0
        self.kept = self.kept + torch.tanh(self.first(x))
        return self.second(self.kept)


class Counts(OneInput):
    """Asks how many parts it has."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * len([*self.modules()])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (KnownById, "a copy of KnownById puts out something else"),
        (Listed, "a copy of Listed puts out something else"),
        (Counts, "Counts puts out something else where it has more layers"),
    ],
)
def test_a_network_whose_copies_do_something_else_is_refused(make, says):
    model = make().eval()
    with pytest.raises(ModelError, match=says):
        plan(model, [X, X.flip(0)], Budget(macs=0.6))
    by_weight = plan(OneInput(), fit="weight", input_size=X.shape[1:], budget=Budget(macs=0.6))
    with pytest.raises(ModelError, match=says):
        convert(model, by_weight, [X])


class Dropping(OneInput):
    """Drops at random, as its layer is trained or not."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.drop(torch.tanh(self.first(x))))


class AlwaysTrains(Dropping):
    def train(self, mode: bool = True) -> nn.Module:
        return super().train(True)


class NeverEvaluates(Dropping):
    def eval(self) -> nn.Module:
        return self


class Stubborn(Dropping):
    """For uncertainty: dropout of its own class, which stays on."""

    def __init__(self):
        super().__init__()
        self.drop.train = lambda mode=True: self.drop


@pytest.mark.parametrize("make", [Dropping, AlwaysTrains, NeverEvaluates, Stubborn])
def test_what_stays_in_training_mode_is_told_and_blamed(make, monkeypatch):
    monkeypatch.setattr("convswap.surgery.convert.FAR", 0)
    model = make()
    made = plan(model, [X, X.flip(0)], Budget(macs=0.6))
    told = record_of(convert(model, made, [X, X.flip(0)])).plans[-1].notes
    if make is Dropping:
        assert made.notes == ()
        assert told[-1].endswith("does forward ask for the class of a layer, or for its name?")
    else:
        assert "in training mode even after eval(): " in made.notes[0]
        assert "drop" in made.notes[0]
        assert told[-1].endswith("part of it stays in training mode")


def test_what_is_changed_in_place_needs_no_gradient():
    class InPlace(OneInput):
        def forward(self, x: Tensor) -> Tensor:
            first, second = (y := self.first(x)).chunk(2, 1)
            first.tanh_(), second.sigmoid_()
            return self.second(y)

    made = plan(InPlace(), [X, X.flip(0)], Budget(macs=0.6))
    assert "judged by what these put out themselves" in made.notes[0]
    convert(InPlace(), made, [X, X.flip(0)])


def test_gradients_of_a_networks_own_are_asked_to_be_switched_on():
    class Untold(OneInput):
        def forward(self, x: Tensor) -> Tensor:
            return torch.autograd.grad(super().forward(x.requires_grad_()).sum(), x)[0]

    with pytest.raises(ModelError, match=r"fails on an input .* torch.enable_grad\(\)"):
        plan(Untold(), [X], Budget(macs=0.6))


def test_networks_that_draw_at_random_are_fitted_on_the_same_draws():
    model = Draws().eval()
    made = plan(model, [X, X.flip(0)], Budget(macs=0.6))
    [second] = [site for site in find_sites(model, X)[0] if site.path == "second"]
    exact = Choice(site="second", form="channel", rank=second.unit.out_channels, damage=0.0)
    made = made.model_copy(update={"choices": (exact,)})
    small = convert(model, made, [X, X.flip(0)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wanted = model(X)
        torch.manual_seed(0)
        assert relative(small(X), wanted) < 1e-4


class Nothing(OneInput):
    """A layer reads what was found, which may be nothing."""

    def __init__(self):
        super().__init__()
        self.third = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = super().forward(x)
        return x, self.third(x[x.mean((1, 2, 3)) > 1e9])


def test_a_layer_that_gets_nothing_is_left_alone():
    model = Nothing().eval()
    reasons = {site.path: site.reason for site in find_sites(model, X)[0]}
    assert reasons["third"] == "it gets nothing to read from the first image"
    assert {choice.site for choice in plan(model, [X], Budget(macs=0.8)).choices} <= set(reasons)


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: nn.Sequential(torch.jit.script(OneInput())), "0 is scripted: its layers"),
        (lambda: nn.Sequential(nn.LazyConv2d(8, 3), nn.Conv2d(8, 8, 3)), "0 has no weights yet"),
        (lambda: OneInput().to("meta"), "without values, on the meta device: first.weight"),
        (lambda: torch.export.export(OneInput().eval(), (X,)).module(), "has no modules that"),
    ],
    ids=["scripted", "lazy", "meta", "exported"],
)
def test_networks_without_layers_to_look_at_are_refused_in_one_line(make, says: str):
    with pytest.raises(ModelError, match=says) as caught:
        plan(make(), [X], Budget(macs=0.6))
    assert "\n" not in str(caught.value)


class Found(OneInput):
    """Puts out the bright positions only: as many in noise as in the first image."""

    def forward(self, x: Tensor) -> Tensor:
        scores = super().forward(x).mean(1).flatten()
        return scores[: 5 if x.abs().max() < 10 else 9]


def test_outputs_whose_number_varies_with_the_image_are_judged_by_parts():
    x = torch.stack([X[0], 100 * X[1]])
    found = read_batches(Found().eval(), [x])[0].match
    assert found.parts == ("first", "second")
    assert read_batches(Found().eval(), [X[:2]])[0].match.parts == ()


@pytest.mark.parametrize(
    "output", [lambda y: y.argmax(1), lambda y: None, lambda y: [{"label": "cat"}] * len(y)],
    ids=["whole numbers", "nothing", "words"],
)  # fmt: skip
def test_outputs_that_are_no_numbers_to_compare_are_judged_by_parts(output):
    class Out(OneInput):
        def forward(self, x: Tensor) -> object:
            return output(super().forward(x))

    model = Out().eval()
    made = plan(model, [X, X], Budget(macs=0.6))
    assert made.notes[-1].endswith(
        "are no floating-point numbers: judged by those of first, second"
    )
    small = distill(convert(model, made, [X, X]), model, [X, X], 1, tell=lambda line: None)
    assert count(small, X) == made.planned


class Speaks(Waves):
    """Says for how long each word is said."""

    def __init__(self):
        super().__init__(8)
        self.words, self.long = nn.Embedding(11, 8), nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, text: Tensor) -> Tensor:
        x = self.words(text).mT
        times = (3 + 9 * self.long(x).mean(1)).relu().round().long()
        said = [x[at].repeat_interleave(times[at], 1).mT for at in range(len(x))]
        return self.whole(nn.utils.rnn.pad_sequence(said, batch_first=True).mT)


def test_outputs_whose_length_follows_from_words_are_judged_by_parts():
    torch.manual_seed(0)
    model = Speaks().eval()
    made = plan(model, [TOKENS, TOKENS.flip(0)], Budget(macs=0.8))
    assert made.notes[0].startswith(
        "the outputs vary in number or shape, or are no floating-point numbers: judged by those of "
        "words, long"
    )
    small = convert(model, made, [TOKENS, TOKENS.flip(0)])
    distill(small, model, [TOKENS, TOKENS.flip(0)], 1, tell=lambda line: None)


class DrawsItsLength(OneInput):
    """Puts out so many columns as it draws, and goes another way for every length."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        for _ in range(int(torch.randint(1, 9, ()))):
            x = torch.cat([x, x.mean(3, keepdim=True)], 3)
        return x


def test_a_network_that_draws_at_random_is_looked_at_alike_every_time():
    model = DrawsItsLength().eval()
    sites = [find_sites(model, (3, 8, 8))[0] for _ in range(4)]
    assert [[site.reason for site in each] for each in sites] == [[None, None]] * 4


def test_a_loader_stays_itself_so_that_every_pass_is_drawn_anew():
    data = TensorDataset(torch.arange(40.0).unsqueeze(1))
    loader = DataLoader(data, 8, shuffle=True)
    assert countable(loader) is loader
    whole = countable(data)
    assert len(whole) == len([*whole]) == len([*whole]) > 0
