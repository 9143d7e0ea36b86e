"""Class numbers that come with images, and whether they can be those of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..network.calls import Batch
from ..network.match import tensors
from ..plans import Kind


def scores_of(output: object) -> Tensor:
    """The class scores `[n, classes]` of a network's output.

    Raises:
        DataError: it is something else.
    """
    found = tensors(output)
    if not found or found[0].dim() != 2:
        what = f" {list(found[0].shape)}" if found else ""
        raise DataError(f"the network's output{what} is not class scores")
    return found[0]


def class_numbers(batch: Batch, classes: int) -> Tensor:
    """The labels of a batch, one for each of its images, as PyTorch's losses take them.

    Raises:
        DataError: they are missing, or cannot be those of so many classes.
    """
    if batch.labels is None:
        raise DataError(
            "the images have no labels",
            do="put them in folders, one per class, or give (images, class numbers)",
        )
    labels = batch.labels.long()
    if len(labels) != len(batch):
        raise DataError(f"{len(labels)} labels came with {len(batch)} images")
    least, most = (end.item() for end in labels.aminmax())
    if least < 0:
        raise DataError(f"label {least} is no class number")
    if most >= classes:
        raise DataError(f"label {most} is beyond the network's {classes} classes")
    return labels


def right_beside(
    original: nn.Module, batches: Sequence[Batch], kind: Kind
) -> Callable[[nn.Module], dict[str, float]]:
    """A function that tells which percentage of the batches' labels a network names, `top1`, and
    the original, `original_top1`; it tells nothing where there are no labels of its classes."""
    try:
        if kind != "logits":
            return lambda network: {}
        before = _right(original, batches)
    except DataError:
        return lambda network: {}
    return lambda network: {"top1": _right(network, batches), "original_top1": before}


@torch.no_grad()
def _right(network: nn.Module, batches: Sequence[Batch]) -> float:
    right = 0
    for batch in batches:
        scores = scores_of(batch.run(network))
        right += (scores.argmax(1) == class_numbers(batch, scores.shape[1])).sum().item()
    return 100 * right / sum(map(len, batches))
