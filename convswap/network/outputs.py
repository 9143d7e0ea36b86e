"""What a network puts out, and how far two outputs are apart.

`logits`: one row of class scores per image, compared by KL divergence, in nats.
`values`: any tree of tensors, compared by relative squared error: 0 is equal, 1 is no better
than the mean output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError
from ..plans import Kind
from ..support.randomness import seeded
from ..support.ranks import gathered, led
from .calls import Batch
from .match import tensors
from .running import output_of

JUDGES = 16  # samples that tell how far two networks are apart, where there are not many
_PICK = "say what to compare: output=lambda output: output[...]"
_NAN = f"look for inputs that are not scaled as it wants them, or {_PICK}"


@torch.no_grad()
def output_kind(model: nn.Module, batches: Sequence[Batch]) -> Kind:
    """`logits` if the network is known to classify, else `values`.

    It is known where the output is `[n, classes]` and the network declares as many
    `num_classes` (all of timm), or the labels that come with the batches run up to the last
    class, or the network is one of torchvision's classifiers.

    Raises:
        ModelError: it puts out nothing that could be compared.
    """
    leaves = tensors(output_of(model, batches[0].take(slice(0, 2))))
    if not all(leaf.isfinite().all() for leaf in leaves):
        raise ModelError(f"{type(model).__name__} puts out NaN or infinity", do=_NAN)
    if not leaves:
        raise ModelError(f"{type(model).__name__} puts out no floating-point tensor", do=_PICK)
    if len(leaves) != 1 or leaves[0].dim() != 2 or batches[0].match.parts:
        return "values"
    classes = leaves[0].shape[1]
    declared = getattr(model, "num_classes", None)
    if declared is not None:
        return "logits" if declared == classes else "values"
    labels = [batch.labels for batch in batches if batch.labels is not None]
    if labels:
        seen = torch.cat(labels)
        return "logits" if seen.min() >= 0 and seen.max() == classes - 1 else "values"
    return "logits" if type(model).__module__.startswith("torchvision.models.") else "values"


def energy(outputs: Sequence[object]) -> list[float]:
    """Per tensor of the output tree: squared distance from the mean, per image.

    The mean is that over images of one shape; over all values, where all images are alike, as a
    single one is; and zero, where there is but one value.
    """
    return [_spread(column) for column in _pairs(*outputs)]


def _spread(column: Sequence[Tensor]) -> float:
    alike: dict[torch.Size, list[Tensor]] = {}
    for tensor in column:
        rows = tensor.double().reshape(_images(tensor), -1)
        alike.setdefault(tensor.shape[1:], []).append(rows)
    groups = [torch.cat(group) for group in alike.values()]
    values = torch.cat([rows.flatten() for rows in groups])
    power = values.square().sum().item()
    spread = sum((rows - rows.mean(0)).square().sum().item() for rows in groups)
    if spread <= 1e-12 * power:
        spread = (values - values.mean()).square().sum().item()
    if spread <= 1e-12 * power:
        spread = power
    return max(spread / sum(map(len, groups)), 1e-30)


def _pairs(*outputs: object) -> list[tuple[Tensor, ...]]:
    """The tensors of several outputs side by side."""
    rows = [tensors(output) for output in outputs]
    if len({len(row) for row in rows}) > 1:
        raise ModelError("outputs differ in their number", do=_PICK)
    return list(zip(*rows, strict=True))


def _images(output: Tensor) -> int:
    return len(output) if output.dim() else 1


def divergence(output: object, reference: object, kind: Kind, scale: Sequence[float]) -> Tensor:
    """Mean distance of a batch of outputs from the original network's, differentiable.

    Args:
        scale: `energy` of the original outputs; not used for logits.
    """
    pairs = _pairs(output, reference)
    for ours, theirs in pairs:
        if ours.shape != theirs.shape:
            raise ModelError("outputs differ in their shape from the original's", do=_PICK)
    if kind == "logits":
        return kl(*pairs[0])
    gaps = [
        (a.float() - b.float()).pow(2).sum() / (_images(a) * unit)
        for (a, b), unit in zip(pairs, scale, strict=True)
    ]
    return sum(gaps) / len(gaps)


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL of the teacher's to the student's class distribution, mean over images, in nats."""
    student = F.log_softmax(student.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher.float() / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def held_back(batches: Sequence[Batch], most: float = math.inf) -> tuple[list[Batch], list[Batch]]:
    """Batches without their last samples, and those: an eighth of all but no more than `most`, and
    of few as many as `JUDGES` but not more than half; two at least, for one alone has no spread."""
    samples = sum(map(len, batches))
    wanted = max(min(samples // 8, most), min(JUDGES, samples // 2), 2)
    rest, held = list(batches), []
    while rest and wanted > 0:
        last = rest.pop()
        first = max(len(last) - wanted, 0)
        if first:
            rest.append(last.take(slice(0, first)))
            last = last.take(slice(first, None))
        held.insert(0, last)
        wanted -= len(last)
    return rest, held


class Reference:
    """A network's outputs on a few batches, to measure others against; what networks draw at
    random is the same in all."""

    @torch.no_grad()
    def __init__(self, model: nn.Module, batches: Sequence[Batch], kind: Kind):
        self._batches, self._kind = batches, kind
        # subtle: tensors, for some networks put out the same mapping every time, filled anew
        self._outputs = [tensors(_run(model, batch)) for batch in batches]
        if not all(tensor.isfinite().all() for output in self._outputs for tensor in output):
            raise ModelError(f"{type(model).__name__} puts out NaN or infinity", do=_NAN)
        self.scale = led(lambda: energy(self._outputs)) if kind == "values" else []

    @torch.no_grad()
    def distance(self, network: nn.Module) -> float:
        """Mean `divergence` of another network's outputs, over images; not less than zero, as
        rounding can make that of equal ones."""
        total = sum(
            divergence(_run(network, batch), output, self._kind, self.scale).item() * len(batch)
            for batch, output in zip(self._batches, self._outputs, strict=True)
        )
        totals, samples = zip(*gathered((total, sum(map(len, self._batches)))), strict=True)
        return max(sum(totals) / sum(samples), 0.0)

    def spread(self) -> float:
        """How far class scores are on average from those of a network that sees nothing, and puts
        out their mean, in nats (the mutual information of images and answers): more harm than
        replacing layers can be expected to do."""
        scores = torch.cat([output[0] for output in self._outputs]).float()
        odds = F.log_softmax(scores, dim=-1)
        mean = odds.logsumexp(0) - math.log(len(odds))
        return led(lambda: kl(mean.expand_as(odds), odds).item())


def _run(network: nn.Module, batch: Batch) -> object:
    with seeded(0):
        return output_of(network, batch)


def probe(output: object, kind: Kind, scale: Sequence[float], random: torch.Generator) -> Tensor:
    """A random scalar whose gradient, squared, is the curvature of `divergence` on average.

    For logits: the log-likelihood of labels drawn from the network's own prediction, so
    E[g g^T] is the Fisher information. For values: a random projection. In both cases a
    small change d of the network costs 1/2 E[(g d)^2].
    """
    leaves = tensors(output)
    if kind == "logits":
        scores = F.log_softmax(leaves[0].float(), dim=-1)
        drawn = torch.multinomial(scores.exp().cpu(), 1, generator=random).to(scores.device)
        return scores.gather(1, drawn).sum()
    total = sum(
        (leaf.float() * torch.randn(leaf.shape, generator=random).to(leaf.device)).sum()
        * (2 / (unit * len(leaves))) ** 0.5
        for leaf, unit in zip(leaves, scale, strict=True)
    )
    return total
