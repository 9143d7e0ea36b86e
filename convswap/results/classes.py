"""Which of a network's classes a folder of images is: nobody wrote it down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

import torch
from torch import nn

from ..errors import ConvswapError
from ..inputs.images import Images
from ..network.calls import read_batch
from ..network.running import output_of
from ..recovery.labels import scores_of

LOOKED_AT = 256  # images, to tell in what order a network has the classes
OF_EACH = 8  # at least, to tell which of a network's the classes are
NEARLY = 0.9  # of the classes


def number_classes_(model: nn.Module, images: Images, *others: Images) -> None:
    """Number the classes of images as a network does, and say so where that is no matter of course.

    Where there are fewer than the network has, by name if they have the names of ImageNet's, else
    as it names them; if it does not, they are no labels, unless they are numbers. Names with
    numbers or capitals are in another order for torchvision's ImageFolder (1, 10, 2) than for timm
    and for people: in that in which the network names them.

    Args:
        model: with its preprocessing settled.
        others: of the same source, read otherwise (cropped at random, say): numbered alike.
    """
    _number_as_named_(model, images)
    for other in others:
        other.items.labels, other.classes = images.items.labels, images.classes


def _number_as_named_(model: nn.Module, images: Images) -> None:
    names = images.classes or []
    classes = _classes_of(model, images) if names else 0
    if names and len(names) < classes:
        known = {name: number for number, name in enumerate(_imagenet_classes(classes))}
        if {*names} <= known.keys():
            _number_(images, [known[name] for name in names], [*known])
            images.note(f"{images.name} has {len(names)} of ImageNet's {classes} classes, by name")
        elif numbers := _as_named(model, images, classes):
            whole = dict(zip(numbers, names, strict=True))
            _number_(images, numbers, [whole.get(n, f"class {n}") for n in range(classes)])
            images.note(
                f"{images.name} has {len(names)} of the network's {classes} classes, those that it "
                f"names them by: {_shown(f'{name} is {n}' for n, name in sorted(whole.items()))}"
            )
        elif names == [*map(str, range(len(names)))]:
            images.note(
                f"{images.name} has {len(names)} classes, the network {classes}: taken for its "
                f"first {len(names)}"
            )
        else:
            images.classes = None
            images.note(
                f"{images.name} has {len(names)} classes, the network {classes}, and does not name "
                "them as any of its own: taken for images without labels"
            )
        return
    if 0 < classes < len(names):
        images.classes = None
        images.note(
            f"{images.name} has {len(names)} classes ({_shown(names)}), the network {classes}: "
            "taken for images without labels"
        )
        return
    by_letters = sorted(names)
    if classes and by_letters != names:
        moved = [by_letters.index(name) for name in names]
        if _is_better(moved, model, images):
            _number_(images, moved, by_letters)
            images.note(
                f"the network has the classes of {images.name} in the order of their letters, as "
                f"torchvision's ImageFolder does: {_shown(by_letters)}"
            )


def _shown(words: Iterable[str], most: int = 5) -> str:
    """The first of some words."""
    words = [*words]
    return ", ".join(words[:most]) + ", ..." * (len(words) > most)


def _number_(images: Images, numbers: Sequence[int], names: list[str]) -> None:
    """Give classes other numbers; `names` are of all, by number."""
    images.items.labels = [numbers[label] for label in images.items.labels]
    images.classes = names


def _classes_of(model: nn.Module, images: Images) -> int:
    """How many classes a network tells apart; 0 if it puts out something else."""
    declared = getattr(model, "num_classes", None)
    if isinstance(declared, int):
        return declared
    with suppress(ConvswapError):  # who runs it on all images says what is wrong
        for given in images.batches(1, count=1):
            return _scores(model, given).shape[1]
    return 0


def _imagenet_classes(classes: int) -> list[str]:
    """The names (WordNet's) of the classes of ImageNet that a network with so many tells apart;
    none if it tells others apart."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": classes})
    return ImageNetInfo(subset).label_names() if subset else []


def _as_named(model: nn.Module, images: Images, classes: int) -> list[int]:
    """The numbers of the classes of images among a network's, of which they are a part, in the
    order of people or of letters: those by which it names most images; none, unless it names so
    more than half of the images of nearly every class."""
    names = images.classes
    votes = torch.zeros(len(names), classes)
    with suppress(ConvswapError):
        for given in images.batches(64, count=max(LOOKED_AT, OF_EACH * len(names))):
            answers = _scores(model, given).argmax(1).cpu()
            votes.index_put_((given[1], answers), torch.ones(()), accumulate=True)
    by_letters = sorted(range(len(names)), key=names.__getitem__)
    found = {}
    for order in ([*range(len(names))], by_letters):
        numbers = dict(zip(order, _rising(votes[order]), strict=True))
        right = sum(votes[label, number].item() for label, number in numbers.items())
        found.setdefault(right, [numbers[label] for label in range(len(names))])
    numbers = found[max(found)]
    halves = votes.sum(1) / 2
    named = sum(votes[label, number] > halves[label] for label, number in enumerate(numbers))
    return numbers if named >= NEARLY * len(names) else []


def _rising(votes: torch.Tensor) -> list[int]:
    """A column for each row, further right than that of the row before, of the largest sum."""
    rows, columns = votes.shape
    best = torch.full((rows + 1, columns + 1), -torch.inf)  # of some rows in some first columns
    best[0] = 0
    for row in range(rows):
        best[row + 1, 1:] = (best[row, :-1] + votes[row]).cummax(0).values
    found = []
    for row in reversed(range(rows)):
        end = found[-1] if found else columns
        found.append((best[row, :end] + votes[row, :end]).argmax().item())
    return found[::-1]


def _is_better(moved: list[int], model: nn.Module, images: Images) -> bool:
    """Whether a network names images by other class numbers than they have, beyond chance."""
    before = after = 0
    with suppress(ConvswapError):
        for given in images.batches(64, count=LOOKED_AT):
            scores, labels = _scores(model, given), given[1]
            other = torch.tensor(moved)[labels]
            answers = scores.argmax(1).cpu()[labels != other]
            before += (answers == labels[labels != other]).sum().item()
            after += (answers == other[labels != other]).sum().item()
    return after - before > 3 * (after + before) ** 0.5


@torch.no_grad()
def _scores(model: nn.Module, given: object) -> torch.Tensor:
    return scores_of(output_of(model.eval(), read_batch(model, given)))
