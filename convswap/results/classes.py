"""Which of a network's classes a folder of images is: nobody wrote it down."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import nn

from ..errors import ConvswapError
from ..inputs.images import Images
from ..network.calls import read_batch
from ..network.running import output_of
from ..recovery.labels import scores_of

LOOKED_AT = 256  # images, to tell in what order a network has the classes


def number_classes_(model: nn.Module, images: Images) -> None:
    """Number the classes of images as a network does, and say so where that is no matter of course.

    Where there are fewer than the network has, by name if they have the names of ImageNet's, else
    as its first. Names with numbers or capitals are in another order for torchvision's ImageFolder
    (1, 10, 2) than for timm and for people: in that in which the network names them.

    Args:
        model: with its preprocessing settled.
    """
    names = images.classes or []
    classes = _classes_of(model, images) if names else 0
    if names and len(names) < classes:
        known = {name: number for number, name in enumerate(_imagenet_classes(classes))}
        if {*names} <= known.keys():
            images.items.labels = [known[names[label]] for label in images.items.labels]
            images.classes = [*known]
            images.note(f"{images.name} has {len(names)} of ImageNet's {classes} classes, by name")
            return
        images.note(
            f"{images.name} has {len(names)} classes, the network {classes}: taken for its first "
            f"{len(names)}"
        )
    by_letters = sorted(names)
    if classes and by_letters != names:
        moved = [by_letters.index(name) for name in names]
        if _is_better(moved, model, images):
            images.items.labels = [moved[label] for label in images.items.labels]
            images.classes = by_letters
            images.note(
                f"the network has the classes of {images.name} in the order of their letters, as "
                f"torchvision's ImageFolder does: {', '.join(by_letters[:3])}, ..."
            )


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
