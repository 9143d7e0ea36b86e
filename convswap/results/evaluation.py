"""How good a network is: accuracy on labelled images, or closeness to another network."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..inputs.images import Batches, Images, open_images
from ..inputs.synthetic import SYNTHETIC
from ..network.calls import read_batch, read_batches
from ..network.match import Match, find_match, tensors
from ..network.outputs import kl, output_kind
from ..plans import Kind
from ..record import planned_output, record_of
from ..support.progress import Note, Progress, silent, unheard


def open_judges(model: nn.Module, source: str, note: Note = unheard) -> Images:
    """Images to judge a network by, never used to train or fit where the source keeps such apart.

    Args:
        model: with its preprocessing settled.
        source: as for `open_images`.
        note: told if there are fewer classes of images than the network has, what else was
            decided about the source, and about images that were left out.
    """
    check_judges(source)
    images = open_images(source, record_of(model).preprocess, held_out=True, note=note)
    folders, classes = len(images.classes or ()), getattr(model, "num_classes", None)
    if isinstance(classes, int) and 0 < folders < classes:
        note(
            f"{source} has {folders} classes, the network {classes}: taken for its first {folders}"
        )
    return images


def check_judges(source: str) -> None:
    """Raise `DataError` if a source says nothing of a network's quality."""
    if source == SYNTHETIC:
        raise DataError("images that are made up judge nothing", do="give real ones")


def quality(
    model: nn.Module,
    reference: nn.Module,
    images: Images,
    output: Kind | None = None,
    progress: Progress = silent,
) -> dict[str, float]:
    """`accuracy` where images are labelled, else `fidelity` to the reference.

    Args:
        output: what the networks put out; default: as planned, else found out from the reference.
    """
    batches = images.batches(128)
    if images.classes:
        return accuracy(model, batches, progress)
    return closeness(model, reference, batches, output, progress)


def closeness(
    model: nn.Module,
    reference: nn.Module,
    batches: Batches,
    output: Kind | None = None,
    progress: Progress = silent,
) -> dict[str, float | None]:
    """`fidelity`, of the kind of output that is given, else planned, else found out."""
    kind = output or planned_output(model)
    if kind is None:
        kind = output_kind(reference, read_batches(reference, [next(iter(batches))]))
    return fidelity(model, reference, batches, kind, progress)


@torch.no_grad()
def accuracy(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], progress: Progress = silent
) -> dict[str, float]:
    """`top1` and `top5` in percent, and the number of `images`, on labelled batches.

    Raises:
        DataError: the output is not one score per class of these labels.
    """
    model.eval()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    right1 = right5 = images = 0
    for done, (x, labels) in enumerate(batches):
        scores = tensors(model(x.to(device)))[0].cpu()
        if scores.dim() != 2:
            raise DataError(f"the network's output {list(scores.shape)} is not class scores")
        if labels.max() >= scores.shape[1]:
            raise DataError(
                f"label {labels.max().item()} is beyond the network's {scores.shape[1]} classes"
            )
        best = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
        right1 += best[:, 0].sum().item()
        right5 += best.any(1).sum().item()
        images += len(x)
        progress("evaluate", done + 1, len(batches) if hasattr(batches, "__len__") else 0)
    if not images:
        raise DataError("no images to evaluate on")
    return {"top1": 100 * right1 / images, "top5": 100 * right5 / images, "images": images}


@torch.no_grad()
def fidelity(
    model: nn.Module,
    reference: nn.Module,
    batches: Iterable[Tensor | tuple],
    kind: Kind,
    progress: Progress = silent,
) -> dict[str, float | None]:
    """How close a network's output is to another's, on unlabelled images.

    Returns:
        `images`; `r2`, the share of the reference's variance over images that is kept; `psnr`
        in dB, for outputs that range over 0..1 (None if equal); for logits also `kl` in nats
        and `agreement`, the percentage of images with the same class.
    """
    model.eval(), reference.eval()
    error = total_square = kl_sum = same = 0.0
    total_sum: Tensor | None = None
    match: Match | None = None
    images = values = 0
    for done, batch in enumerate(batches):
        batch = read_batch(reference, batch)
        match = match or find_match(reference, batch)
        batch = replace(batch, match=match)
        pairs = list(zip(tensors(batch.run(model)), tensors(batch.run(reference)), strict=True))
        ours = torch.cat([a.flatten(1).double() for a, _ in pairs], 1)
        theirs = torch.cat([b.flatten(1).double() for _, b in pairs], 1)
        error += (ours - theirs).pow(2).sum().item()
        total_square += theirs.pow(2).sum().item()
        batch_sum = theirs.sum(0)
        total_sum = batch_sum if total_sum is None else total_sum + batch_sum
        if kind == "logits":
            kl_sum += kl(*pairs[0]).item() * len(batch)
            same += (pairs[0][0].argmax(1) == pairs[0][1].argmax(1)).sum().item()
        images += len(batch)
        values += theirs.numel()
        progress("compare", done + 1, len(batches) if hasattr(batches, "__len__") else 0)
    if not images:
        raise DataError("no images to compare on")
    variance = max(total_square - total_sum.pow(2).sum().item() / images, 1e-30)
    found = {
        "images": images,
        "r2": 1 - error / variance,
        "psnr": 10 * math.log10(values / error) if error else None,
    }
    if kind == "logits":
        found |= {"kl": kl_sum / images, "agreement": 100 * same / images}
    return found
