"""Which images may fit, train, and judge: none judges what it was used for.

Which ones judge depends on nothing but their number, so that every verb, whatever its seed,
keeps the same apart.
"""

from __future__ import annotations

import torch

APART = 256  # images at most, and an eighth of all, are kept to judge by


def to_judge(total: int) -> list[int]:
    """Indices of the images kept apart; none if there are fewer than eight."""
    return shuffled(total, 0)[total - min(APART, total // 8) :]


def to_train(total: int) -> list[int]:
    """Indices of all others."""
    return sorted({*range(total)}.difference(to_judge(total)))


def to_fit(total: int, count: int, seed: int) -> list[int]:
    """So many of those at most, drawn by the seed."""
    apart = {*to_judge(total)}
    return [index for index in shuffled(total, seed) if index not in apart][:count]


def shuffled(total: int, seed: int) -> list[int]:
    """Numbers below a total, in an order that a seed decides."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed)).tolist()
