"""Figures of merit, on outputs whose figures are known by construction."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from convswap import ConvswapError, Preprocess, accuracy, fidelity
from convswap.inputs.images import Images, training_batches
from convswap.record import record_of, remember
from convswap.results.classes import number_classes_
from convswap.results.evaluation import _guessed, open_judges, quality_beside


class Says(nn.Module):
    """Puts out what it reads, times a factor, plus a shift."""

    def __init__(self, factor: float = 1.0, shift: float = 0.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.shift


def scores(best: list[int], classes: int = 10) -> Tensor:
    """One row per image that ranks `best` first, and the other classes in order."""
    rows = -torch.arange(classes, dtype=torch.float32).repeat(len(best), 1)
    rows[range(len(best)), best] = 1
    return rows


def test_top1_is_the_share_of_images_whose_best_class_is_right():
    batches = [(scores([1, 2, 3]), torch.tensor([1, 2, 0])), (scores([4]), torch.tensor([4]))]
    found = accuracy(Says(), batches)
    assert found["top1"] == 75
    assert found["images"] == 4


def test_top5_counts_the_five_best():
    labels = torch.tensor([9, 3, 4, 8])  # the five best are 9, then 0, 1, 2, 3
    found = accuracy(Says(), [(scores([9, 9, 9, 9]), labels)])
    assert found["top1"] == 25
    assert found["top5"] == 50


def test_top5_of_three_classes_is_all():
    assert accuracy(Says(), [(scores([0, 1], 3), torch.tensor([2, 2]))])["top5"] == 100


def test_the_batch_size_does_not_matter():
    x, labels = torch.randn(12, 7), torch.randint(0, 7, (12,))
    whole = accuracy(Says(), [(x, labels)])
    assert accuracy(Says(), zip(x.split(5), labels.split(5), strict=True)) == whole


def test_labels_beyond_the_classes_are_refused():
    with pytest.raises(ConvswapError, match="label 7 is beyond the network's 3 classes"):
        accuracy(Says(), [(torch.randn(1, 3), torch.tensor([7]))])


def test_an_image_is_not_a_class_score():
    with pytest.raises(ConvswapError, match="class scores"):
        accuracy(Says(), [(torch.randn(1, 3, 4, 4), torch.tensor([0]))])


class Labelled(list):
    """Inputs with their labels, as sources give them: by number and seed."""

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, int]:
        return super().__getitem__(place[0])


@pytest.mark.parametrize(("labels", "told"), [
    ([0, 1, 2, 3], "25.00 % of data right, as guesses among 4"),
    ([0, 0, 0, 1], None),
    ([2, 2, 2, 2], "0.00 %"),
])  # fmt: skip
def test_where_the_original_guesses_closeness_to_it_is_judged_in_place_of_accuracy(labels, told):
    heard: list[str] = []
    items = Labelled(zip(scores([0, 0, 0, 0]), labels, strict=True))
    images, dense, other = Images("data", items, [*"abcd"], heard.append), Says(), Says(shift=1.0)
    quality = quality_beside(dense, images, "logits")
    figures = [quality(dense), quality(other)]
    assert [found.get("top1") for found in figures] == 2 * [None if told else 75]
    assert [found.get("agreement") for found in figures] == 2 * [100 if told else None]
    assert [told in line for line in heard] == ([True] if told else [])


@pytest.mark.parametrize("measure", [
    lambda: accuracy(Says(), []), lambda: fidelity(Says(), Says(), [], "values"),
])  # fmt: skip
def test_nothing_to_judge_is_an_error(measure):
    with pytest.raises(ConvswapError, match="no images"):
        measure()


@pytest.mark.parametrize("kind", ["values", "logits"])
def test_a_network_is_equal_to_itself(kind):
    found = fidelity(Says(), Says(), [torch.randn(6, 5)], kind)
    assert found["r2"] == 1
    assert found["psnr"] in (None, math.inf)
    assert found.get("kl", 0) == pytest.approx(0, abs=1e-6)
    assert found.get("agreement", 100) == 100


def test_r2_of_the_mean_output_is_zero():
    x = torch.randn(50, 4)
    x = x - x.mean(0)
    assert fidelity(Says(0.0), Says(), [x], "values")["r2"] == pytest.approx(0, abs=1e-6)


def test_r2_falls_with_the_square_of_the_error():
    x = torch.randn(50, 4)
    x = x - x.mean(0)
    assert fidelity(Says(0.9), Says(), [x], "values")["r2"] == pytest.approx(0.99, abs=1e-6)


def test_r2_counts_variance_over_images_and_not_over_pixels():
    x = torch.arange(8.0).repeat(3, 1)  # every image the same: no variance at all
    assert fidelity(Says(shift=0.1), Says(), [x], "values")["r2"] < -1e6


def test_psnr_of_a_known_error():
    images = torch.rand(4, 3, 5, 5)
    found = fidelity(Says(shift=0.1), Says(), [images], "values")
    assert found["psnr"] == pytest.approx(20, abs=1e-3)
    assert found["images"] == 4


def test_psnr_over_batches_of_unequal_size():
    x = torch.rand(7, 3, 2, 2)
    whole = fidelity(Says(shift=0.01), Says(), [x], "values")
    parts = fidelity(Says(shift=0.01), Says(), x.split(3), "values")
    assert parts == pytest.approx(whole)


def test_kl_of_two_known_distributions():
    ours, theirs = torch.tensor([[0.25, 0.75]]), torch.tensor([[0.5, 0.5]])

    class Answers(Says):
        def forward(self, x: Tensor) -> Tensor:
            return ours.log().expand(len(x), 2)

    found = fidelity(Answers(), Says(), [theirs.log().repeat(3, 1)], "logits")
    assert found["kl"] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-6)


def test_agreement_counts_images_of_the_same_class():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 1.0], [0.2, 0.1]])

    class Flips(Says):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x[:1].flip(1), x[1:]])

    assert fidelity(Flips(), Says(), [x], "logits")["agreement"] == 75


def test_values_are_not_judged_as_classes():
    found = fidelity(Says(0.5), Says(), [torch.randn(3, 4)], "values")
    assert "kl" not in found
    assert "agreement" not in found


def test_a_dictionary_of_outputs_counts_as_one_vector():
    class Two(Says):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"a": x * self.factor, "b": x[:, :1] * self.factor}

    x = torch.randn(40, 3)
    x = x - x.mean(0)
    assert fidelity(Two(0.9), Two(), [x], "values")["r2"] == pytest.approx(0.99, abs=1e-6)


def test_progress_ends_with_the_number_of_batches():
    seen = []
    batches = [torch.randn(2, 3)] * 4
    fidelity(Says(), Says(), batches, "values", lambda *step: seen.append(step))
    assert seen[-1][1:] == (4, 4)


def test_networks_are_judged_in_eval_mode():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.9)).train()
    reference = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.9)).train()
    reference.load_state_dict(model.state_dict())
    assert fidelity(model, reference, [torch.randn(8, 3)], "values")["r2"] == 1


NAN, INF = math.nan, math.inf
X, LABELS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
UNJUDGED = {
    "images of NaN": (
        Says(),
        [(X, LABELS), (X * NAN, LABELS)],
        "NaN or infinite values, first in sample 0 .batch 2",
    ),
    "a network of NaN": (Says(NAN), [(X, LABELS)], "Says puts out NaN or infinity .batch 1"),
    "no labels": (Says(), [X], "the images have no labels .batch 1"),
    "one tensor": (Says(), X, "the images have no labels .batch 1"),
    "fractions": (Says(), [(X, LABELS.float())], "the images have no labels .batch 1"),
    "too few labels": (Says(), [(X, LABELS[:2])], "2 labels came with 6 images .batch 1"),
    "a label below zero": (Says(), [(X, LABELS - 1)], "label -1 is no class number .batch 1"),
    "only empty batches": (Says(), [(X[:0], LABELS[:0])], "no images"),
    "whole numbers": (nn.Linear(4, 4), [(X.long(), LABELS)], "Linear fails on an input of 4"),
    "no tensor": (Says(), ["cat.jpg"], "no tensor in a batch of type str .batch 1"),
}
UNLIKE = {
    "images of NaN": (
        Says(),
        Says(),
        [X, X * NAN],
        "NaN or infinite values, first in sample 0 .batch 2",
    ),
    "a network of infinity": (Says(shift=INF), Says(), [X], "Says puts out NaN or infinity .batch"),
    "a reference of NaN": (Says(), Says(NAN), [X[:0], X], "Says puts out NaN or infinity .batch 2"),
    "outputs that overflow": (
        Says(0.5).double(),
        Says().double(),
        [X.double() * 1e200],
        "too large",
    ),
    "outputs of other shapes": (nn.Linear(4, 3), Says(), [X], "differ in number or shape .batch 1"),
    "whole numbers": (nn.Identity(), nn.Identity(), [X.long()], "no floating-point tensor .batch"),
    "only empty batches": (Says(), Says(), [X[:0]], "no images"),
    "one number for all": (nn.MSELoss(), nn.MSELoss(), [X], "MSELoss fails on an input of 4"),
}


@pytest.mark.parametrize("case", UNJUDGED)
def test_what_cannot_be_judged_is_refused_in_one_line(case):
    model, batches, says = UNJUDGED[case]
    with pytest.raises(ConvswapError, match=says) as caught:
        accuracy(model, batches)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["values", "logits"])
@pytest.mark.parametrize("case", UNLIKE)
def test_what_cannot_be_compared_is_refused_in_one_line(case, kind):
    model, reference, batches, says = UNLIKE[case]
    with pytest.raises(ConvswapError, match=says) as caught:
        fidelity(model, reference, batches, kind)
    assert "\n" not in str(caught.value)


def test_empty_batches_and_other_types_of_number_change_no_figure():
    batches = [(X[:0], LABELS[:0]), (X.double(), LABELS), (X[:0], LABELS[:0])]
    assert accuracy(Says(), batches) == accuracy(Says(), [(X, LABELS)])
    found = [fidelity(Says(0.9), Says(), given, "logits") for given in (batches, [X], X)]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("shape", [(), (2, 2)], ids=["one number an image", "maps"])
def test_outputs_of_any_shape_are_compared(shape):
    class Shaped(Says):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, : max(1, math.prod(shape))].reshape(-1, *shape)

    x = X - X.mean(0)
    assert fidelity(Shaped(0.9), Shaped(), [x], "values")["r2"] == pytest.approx(0.99, abs=1e-5)


def test_images_of_several_sizes_have_their_mean_each():
    x, y = torch.randn(50, 4), 3 + torch.randn(50, 6)
    centred = [each - each.mean(0) + 5 for each in (x, y)]
    found = fidelity(Says(0.0, 5.0), Says(), centred, "values")
    assert found["r2"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("names", "classes", "labels"),
    [
        (["n01443537", "n15075141"], 1000, {1, 999}),
        (["n01443537", "n15075141"], 2, {0, 1}),
    ],
    ids=["some of ImageNet's", "all that there are"],
)
def test_classes_of_imagenet_are_known_by_name(names, classes, labels, tmp_path):
    for name in names:
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    model = nn.Sequential(nn.Conv2d(3, classes, 8), nn.Flatten())
    model.num_classes = classes
    remember(model, preprocess=Preprocess(input_size=(3, 8, 8)))
    images = open_judges(model, str(tmp_path))
    [(_, found)] = images.batches(4)
    assert {*found.tolist()} == labels


class Brightness(nn.Module):
    """Tells images of one gray apart: the class is how bright they are, in so many steps."""

    def __init__(self, classes: int):
        super().__init__()
        self.first = nn.Conv2d(3, 1, 1)
        self.steps = nn.Parameter(torch.arange(classes) / classes)

    def forward(self, x: Tensor) -> Tensor:
        return -(x.mean((1, 2, 3))[:, None] - self.steps).abs()


NUMBERED = [str(number) for number in range(1, 13)]


@pytest.mark.parametrize(
    ("names", "known", "says"),
    [
        (NUMBERED, sorted(NUMBERED), "in the order of their letters"),
        (NUMBERED, NUMBERED, None),
        ([*"abcdefgh", "I"], ["I", *"abcdefgh"], "in the order of their letters"),
        (["n01443537", "n15075141"], [f"{'n01443537' * (i == 1)}{'n15075141' * (i == 999)}"
                                      for i in range(1000)], "2 of ImageNet's 1000 classes"),
        (["x", "y"], ["x", "y", "z"], "has 2 of the network's 3 classes, those that it names them"),
        (["x", "z"], ["x", "y", "z"], "names them by: x is 0, z is 2"),
        (["2", "10"], ["1", "10", "2", "3"], "names them by: 10 is 1, 2 is 2"),
    ],
    ids=["by letters", "by numbers", "a capital", "of ImageNet", "the first", "others", "letters"],
)  # fmt: skip
def test_classes_are_in_the_order_that_the_network_has_them_in(names, known, says, tmp_path):
    for name in names:
        (tmp_path / name).mkdir()
        for index in range(4):
            gray = np.full((8, 8), known.index(name) / len(known) * 65535, np.uint16)
            Image.fromarray(gray).save(tmp_path / name / f"{index}.png")
    model = remember(Brightness(len(known)), preprocess=Preprocess(
        input_size=(3, 8, 8), mean=(0,) * 3, std=(1,) * 3))  # fmt: skip
    lines = []
    images = open_judges(model, str(tmp_path), lines.append)
    assert accuracy(model, images.batches(16))["top1"] == 100
    training, judges = training_batches(str(tmp_path), record_of(model).preprocess)
    number_classes_(model, judges.images, training.images)
    assert accuracy(model, training)["top1"] == 100
    assert {images.classes[label] for _, labels in images.batches(8) for label in labels} == {
        *names
    }
    assert [says in line for line in lines] == [True] * bool(says)


def test_classes_that_a_network_names_in_no_order_are_no_labels_of_it(tmp_path):
    """Two of four are named as their order says, two as it does not: half of the images."""
    meant = {"apple": 2, "brick": 1, "cloud": 3, "door": 4}
    for name, column in meant.items():
        (tmp_path / name).mkdir()
        for index in range(8):
            pixels = np.zeros((8, 8, 3), np.uint8)
            pixels[:, column] = 200 + index
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    model = remember(nn.Sequential(nn.AvgPool2d((8, 1)), Columns()),
                     preprocess=Preprocess(input_size=(3, 8, 8)))  # fmt: skip
    lines = []
    images = open_judges(model, str(tmp_path), lines.append)
    assert images.classes is None
    assert "without labels" in lines[-1]


class Columns(nn.Module):
    """Names the brightest of eight columns."""

    num_classes = 8

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1).flatten(1)


@pytest.mark.parametrize(("right", "told"), [(40, False), (51, False), (53, True)])
def test_guesses_are_told_from_knowledge_with_their_errors(right: int, told: bool):
    assert (right / 400 > _guessed(10, 400)) == told


@pytest.mark.parametrize(
    ("names", "classes", "known", "says"),
    [
        (NUMBERED, 12, True, None),
        (NUMBERED, 40, False, "without labels"),
        (["0", "1", "2"], 40, True, "its first 3"),
        (NUMBERED, 10, False, "12 classes (1, 2, 3, 4, 5, ...), the network 10: taken for images"),
    ],
    ids=["all", "some", "numbers", "more"],
)
def test_a_network_that_guesses_tells_neither_their_order_nor_which_of_its_classes_they_are(
    names, classes, known, says, tmp_path
):
    generator = np.random.default_rng(0)
    for name in names:
        (tmp_path / name).mkdir()
        for index in range(4):
            noise = generator.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"{index}.png")
    model = remember(nn.Sequential(nn.Conv2d(3, classes, 8), nn.Flatten()),
                     preprocess=Preprocess(input_size=(3, 8, 8)))  # fmt: skip
    lines = []
    images = open_judges(model, str(tmp_path), lines.append)
    assert images.classes == (names if known else None)
    assert [says in line for line in lines] == [True] * bool(says)
