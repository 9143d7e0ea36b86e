"""The inputs on which two networks differ most, with both answers, ready to be looked at."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..inputs.images import Images
from ..network.calls import Batch, read_batch, settled
from ..network.match import tensors
from ..network.outputs import output_kind
from ..plans import Kind
from ..record import record_of
from ..support.progress import Progress, silent

CASES = 6
MOST = 1000  # images that are compared
SIDE = 256  # pixels of a picture on the page, at most
_PHOTO = 128 * 128  # pixels from which JPEG is used


@dataclass(frozen=True)
class Case:
    """One input and what becomes of it.

    Attributes:
        distance: of the two outputs, in words.
        truth: the class it is labelled with, if any.
        pictures: caption -> data URI: the input, and outputs that can be looked at.
        answers: of both networks, of class scores: the likeliest classes and their share, 0..1.
    """

    name: str
    distance: str
    truth: str
    pictures: dict[str, str]
    answers: dict[str, list[tuple[str, float]]]


@torch.no_grad()
def differing(
    dense: nn.Module,
    small: nn.Module,
    images: Images,
    kind: Kind | None = None,
    progress: Progress = silent,
) -> list[Case]:
    """Up to six inputs, those on which the outputs are furthest apart first.

    The distance is KL divergence of class scores, else the squared error relative to the
    original output's square. Inputs on which there is no difference are left out.

    Args:
        small: with its preprocessing settled.
        kind: what the networks put out; default: found out from the first.
    """
    device = next(dense.parameters()).device
    batches = images.batches(32, count=MOST)
    worst: list[tuple[float, int, tuple[Tensor, ...], int | None]] = []
    first: Batch | None = None
    number = 0
    for done, (x, *labels) in enumerate(batches):
        batch = read_batch(dense, (x.to(device),))
        first = first or settled(dense, batch)
        batch = batch.like(first)
        kind = kind or output_kind(dense, [batch])
        ours, theirs = tensors(batch.run(small)), tensors(batch.run(dense))
        far = _distances(ours, theirs, kind).cpu()
        for index in far.topk(min(CASES, len(far))).indices.tolist():
            label = labels[0][index].item() if labels else None
            # subtle: copied, or a view would keep the whole batch
            kept = tuple(t[index].cpu().clone() for t in (x, theirs[0], ours[0]))
            worst.append((far[index].item(), number + index, kept, label))
        worst = sorted(worst, key=lambda each: (-each[0], each[1]))[:CASES]
        number += len(x)
        progress("differences", done + 1, len(batches))
    names = getattr(images.items, "names", None) if not images.skipped else None
    unit = "KL {:.3g} nats" if kind == "logits" else "relative squared error {:.3g}"
    cases = []
    for distance, place, (x, before, after), label in worst:
        if distance <= 0:
            continue
        known = images.classes if label is not None else None
        answers = {}
        if kind == "logits":
            called = class_names(small, images.classes, before.shape[0])
            answers = {"before": _likeliest(before, called), "after": _likeliest(after, called)}
        cases.append(
            Case(
                name=names[batches.order[place]] if names else f"image {batches.order[place]}",
                distance=unit.format(distance),
                truth=known[label] if known else "",
                pictures=_pictures(small, x, before, after, kind),
                answers=answers,
            )
        )
    return cases


def class_names(network: nn.Module, folders: Sequence[str] | None, count: int) -> list[str]:
    """Names of a network's classes: the images' where they are as many, ImageNet's for networks
    of timm and torchvision that have its thousand, else their numbers."""
    if folders and len(folders) == count:
        return [*folders]
    base = record_of(network).base
    if count == 1000 and base.weights == "pretrained":
        from timm.data import ImageNetInfo

        info = ImageNetInfo()
        return [info.index_to_description(index) for index in range(count)]
    return [f"class {index}" for index in range(count)]


def _distances(ours: list[Tensor], theirs: list[Tensor], kind: Kind) -> Tensor:
    """How far the outputs for each sample are apart, `[n]`."""
    if kind == "logits":
        student, teacher = (F.log_softmax(t[0].float(), dim=-1) for t in (ours, theirs))
        return F.kl_div(student, teacher, reduction="none", log_target=True).flatten(1).sum(1)
    a, b = (torch.cat([t.float().flatten(1) for t in each], 1) for each in (ours, theirs))
    return (a - b).square().sum(1) / b.square().sum(1).clamp_min(1e-30)


def _likeliest(scores: Tensor, names: Sequence[str]) -> list[tuple[str, float]]:
    shares, classes = scores.float().softmax(-1).topk(min(3, len(scores)))
    return [(names[c], share) for c, share in zip(classes.tolist(), shares.tolist(), strict=True)]


def _pictures(
    network: nn.Module, x: Tensor, before: Tensor, after: Tensor, kind: Kind
) -> dict[str, str]:
    found = {}
    if x.dim() == 3 and x.shape[0] in (1, 3):
        known = record_of(network).preprocess
        mean, std = (torch.tensor(v)[:, None, None] for v in (known.mean, known.std))
        found["input"] = _uri((x * std + mean).clamp(0, 1))
    if kind == "values" and before.dim() == 3:
        for name, output in (("before", before), ("after", after)):
            if before.shape[0] in (1, 3):
                low, high = min(0, before.min().item()), max(1, before.max().item())
                found[name] = _uri(((output - low) / (high - low)).clamp(0, 1))
            elif min(before.shape[1:]) >= 16:  # a map of class scores
                found[name] = _uri(_coloured(output.argmax(0)))
    return found


def _coloured(classes: Tensor) -> Tensor:
    """A map of class numbers `[h, w]` as colours `[3, h, w]`, 0..1; class 0 is dark."""
    hue = (classes[None] * 0.618034 + torch.tensor([0, 1 / 3, 2 / 3])[:, None, None]) % 1
    colours = (2 * (hue - 0.5).abs() * 1.5 - 0.25).clamp(0.1, 0.95)
    return torch.where(classes[None] == 0, torch.full_like(colours, 0.1), colours)


def _uri(pixels: Tensor) -> str:
    """An image `[1 or 3, h, w]`, 0..1, as a small data URI."""
    values = (255 * pixels.float()).round().to(torch.uint8).permute(1, 2, 0).numpy()
    image = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
    image.thumbnail((SIDE, SIDE))
    kind = "JPEG" if image.width * image.height > _PHOTO else "PNG"
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=85)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
