"""Other images from those there are: the teacher answers for any, so none needs a label."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..network.calls import Batch


class Mixed(NamedTuple):
    """A batch of which each sample is some share of itself and the rest of a partner.

    Attributes:
        partners: `[n]` the index of each sample's partner.
        share: 0..1, how much of a sample is its own.
    """

    batch: Batch
    partners: Tensor
    share: float


def mix(batch: Batch) -> Mixed:
    """Half of the images mirrored, then all blended with a partner (mixup: Zhang et al. 2018) or
    with a rectangle of it pasted in (cutmix: Yun et al. 2019), as torch's random state decides.

    A batch of anything but one tensor of images `[n, channels, height, width]` stays as it is.
    """
    tensors = batch.tensors
    if len(tensors) != 1 or tensors[0].dim() != 4 or not tensors[0].is_floating_point():
        return Mixed(batch, torch.arange(len(batch)), 1.0)
    mirrored = (torch.rand(len(batch)) < 0.5).view(-1, 1, 1, 1).to(tensors[0].device)
    images = torch.where(mirrored, tensors[0].flip(-1), tensors[0])
    partners = torch.randperm(len(images))
    others, share = images[partners.to(images.device)], torch.rand(()).item()
    if torch.rand(()) < 0.5:
        mixed = others.lerp(images, share)
    else:
        mixed, share = _pasted(images, others, share)
    return Mixed(batch.mapped(lambda _: mixed), partners, share)


def _pasted(images: Tensor, others: Tensor, share: float) -> tuple[Tensor, float]:
    """Images with a rectangle of others in them, and the share that is their own."""
    height, width = images.shape[-2:]
    tall, wide = (round((1 - share) ** 0.5 * side) for side in (height, width))
    top = torch.randint(height - tall + 1, ()).item()
    left = torch.randint(width - wide + 1, ()).item()
    place = (..., slice(top, top + tall), slice(left, left + wide))
    pasted = images.clone()
    pasted[place] = others[place]
    return pasted, 1 - tall * wide / (height * width)
