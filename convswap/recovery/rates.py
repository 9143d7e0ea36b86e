"""How fast to train, and for how long: it follows from the start, nothing has to be tuned."""

from __future__ import annotations

import math

import torch
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from .soap import Soap

LR = 3e-3  # at the distance
FAR = 0.2  # from the original, and in proportion to its cube root elsewhere
SLOWEST, FASTEST = 5e-4, 5e-3
TYPICAL = 0.2  # root mean square of the weights that learn at the rate itself
SMALL = 0.02  # that of the weights that learn slowest
IMAGES = 40_000  # to see in all, where no length is given
PASSES = 64  # at most, for that
WARM_UP = 0.05  # of all steps
# Steps of warm-up at least, if they are a quarter of all at most: SOAP knows its bases by then.
# Without, 4 steps took ResNet-20 from 0.17 to 1.4 nats, and with 8 of warm-up to 0.31.
WARM = 8


def rate_for(distance: float) -> float:
    """The learning rate for a start so far from the original, in nats or as relative squared
    error: a careful one where little was lost, so that it is not lost again.

    Found in one pass over 18,000 images by ResNet-20, one seed each: with 0.2 of its multiply-adds,
    0.2 nats away, 3e-3 and 5e-3 were level and better than 1.5e-3; where it began 0.01 and 0.7
    nats away, 1.5e-3 and 4e-3 did well. `tests/benchmarks/recovery.py --lr` tries others.
    """
    distance = max(distance, 0.0)  # of equal outputs rounding makes less than nothing
    return min(max(LR * (distance / FAR) ** (1 / 3), SLOWEST), FASTEST)


def passes_for(images: int) -> int:
    """How many passes to make over so many images.

    Few images are worth many: of 1,000, 16 passes took ResNet-20 at 0.2 of its multiply-adds from
    0.176 nats to 0.119, and 40 to 0.105 (`tests/benchmarks/recovery.py --images 1000`).
    """
    return min(max(round(IMAGES / images), 1), PASSES)


def scale_of(weights: Tensor) -> float:
    """How much faster or slower than others a tensor learns, in proportion to its size: the
    layers of one form differ by orders of magnitude. Powers of two, so that few groups are left.
    """
    size = weights.detach().abs().float().square().mean().sqrt().item()
    return 2.0 ** round(math.log2(max(size, SMALL) / TYPICAL))


def optimizer_for(network: nn.Module, lr: float) -> torch.optim.Optimizer:
    """SOAP for all that may train, without decay; each tensor at a rate in proportion to it. (Some
    networks hold tensors of no numbers.)"""
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad and parameter.numel():
            groups.setdefault(scale_of(parameter), []).append(parameter)
    return Soap(
        [{"params": group, "lr_scale": scale} for scale, group in sorted(groups.items())], lr
    )


def schedule_for(optimizer: torch.optim.Optimizer, steps: int) -> CosineLRScheduler:
    """A short warm-up, then a cosine down to zero just after the last step."""
    warm = max(round(WARM_UP * steps), min(WARM, steps // 4))
    return CosineLRScheduler(optimizer, t_initial=steps + 1, warmup_t=warm, t_in_epochs=False)
