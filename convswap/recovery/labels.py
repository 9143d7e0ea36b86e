"""Class numbers that come with images, and whether they can be those of a network."""

from __future__ import annotations

from torch import Tensor

from ..errors import DataError
from ..network.calls import Batch
from ..network.match import tensors


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
