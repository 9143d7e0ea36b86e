"""How far what a file puts out is from what the network does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import ConvswapError
from ..network.calls import Batch

TOLERANCE = 1e-3  # of the largest output; float32 runtimes differ by 1e-5 or so
FLIPPED = 0.01  # share of whole numbers, such as the best class, that rounding may change


@torch.no_grad()
def largest_gap(model: nn.Module, batch: Batch, outputs: object, do: str = "") -> float:
    """The largest absolute difference of a network's outputs from those that a file gave, in order.

    Integers and truth values are to be equal, but for a small share: where two classes are level
    but for rounding, either may be put out as the best.

    Args:
        do: what may help where the file is wrong.

    Raises:
        ConvswapError: it is no rounding.
    """
    expected, found = _tensors(batch.forward(model)), _tensors(outputs)
    try:
        return _gap(expected, found, do)
    except ConvswapError:
        again = _tensors(batch.forward(model))
        pairs = [(a.nan_to_num(), b.nan_to_num()) for a, b in zip(expected, again, strict=False)]
        if not all(torch.equal(*pair) for pair in pairs):
            raise ConvswapError(
                "the network draws numbers at random: what it puts out cannot be compared with "
                "what the exported one does",
                do="have it take them as an input",
            ) from None
        raise


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _gap(expected: Sequence[Tensor], found: Sequence[Tensor], do: str) -> float:
    if [each.shape for each in expected] != [each.shape for each in found]:
        raise ConvswapError(
            "the exported network's outputs differ from PyTorch's in number or size", do=do
        )
    gap, largest = 0.0, 1.0
    for ours, theirs in zip(expected, found, strict=True):
        differs = ours != theirs  # also where both are infinite they do not
        if not differs.any():
            continue
        if ours.is_floating_point() or ours.is_complex():
            gap = max(gap, (ours - theirs)[differs].abs().nan_to_num(math.inf).max().item())
            largest = max(largest, ours.abs().nan_to_num(0, 0, 0).max().item())
        elif (share := differs.double().mean().item()) > FLIPPED:
            raise ConvswapError(
                f"{100 * share:.3g} % of the exported network's whole numbers differ from "
                "PyTorch's",
                do=do,
            )
    if not gap <= TOLERANCE * largest:
        raise ConvswapError(
            f"the exported network's outputs differ from PyTorch's by {gap:.2g}", do=do
        )
    return gap
