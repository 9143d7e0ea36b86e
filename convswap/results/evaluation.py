"""How good a network is: accuracy on labelled images, or closeness to another network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn

from ..errors import ConvswapError, DataError, ModelError
from ..inputs.images import Batches, Images, open_images
from ..inputs.names import check_judge
from ..network.calls import Batch, listed, read_batch, settled
from ..network.match import tensors
from ..network.outputs import output_kind
from ..network.running import output_of
from ..plans import Kind
from ..record import planned_output, record_of
from ..recovery.labels import class_numbers, scores_of
from ..support.progress import Note, Progress, silent, unheard
from .classes import number_classes_
from .figures import Figures


def open_judges(model: nn.Module, source: str, note: Note = unheard) -> Images:
    """Images to judge a network by, never used to train or fit where the source keeps such apart.

    Args:
        model: with its preprocessing settled.
        source: as for `open_images`.
        note: told how classes are numbered where there are fewer than the network has, or in
            another order, what else was decided about the source, and about images that were left
            out.
    """
    check_judge(source)
    images = open_images(source, record_of(model).preprocess, held_out=True, note=note)
    number_classes_(model, images)
    return images


def quality_beside(
    reference: nn.Module,
    images: Images,
    output: Kind | None = None,
    progress: Progress = silent,
) -> Callable[[nn.Module], dict[str, float | None]]:
    """A function that measures a network on images: its `accuracy` where these are labelled, the
    networks put out a score for each class, and the reference names them better than guesses
    would; else its `closeness` to the reference.

    Args:
        images: its `note` is told, at the first network, where labels tell nothing.
        output: what the networks put out; default: as planned, else found out from the reference.
    """
    batches = images.batches(128)

    @cache
    def named() -> dict[str, float] | None:
        """How well the reference names the images, if labels tell anything."""
        if not images.classes or not scores_classes(reference, batches):
            return None
        found = accuracy(reference, batches, progress)
        if not (guesses := _as_guesses(found, images)):
            return found
        images.note(f"{guesses}: judged by how close outputs come to its own")
        return None

    def measure(network: nn.Module) -> dict[str, float | None]:
        known = named()
        if known is None:
            return closeness(network, reference, batches, output, progress)
        return {**known} if network is reference else accuracy(network, batches, progress)

    return measure


def labelled_accuracy(
    network: nn.Module, images: Images, batches: Batches, progress: Progress = silent
) -> dict[str, float]:
    """`accuracy` on batches of images, whose `note` is told if guesses would be as good.

    Raises:
        DataError: the images have no labels, or as `accuracy` does.
    """
    if not images.classes:
        raise DataError(
            f"{images.name} has no labels of this network's classes",
            do="use class folders, of all its classes, or compare --against a MODEL",
        )
    found = accuracy(network, batches, progress)
    if guesses := _as_guesses(found, images):
        images.note(f"{guesses}: it may have other classes, or want other preprocessing")
    return found


def _as_guesses(found: dict[str, float], images: Images) -> str:
    """What is to be said of an `accuracy` on images that guesses may come to as well, within two
    standard errors; nothing of a better one."""
    classes = len(images.classes)
    if found["top1"] > 100 * _guessed(classes, found["images"]):
        return ""
    return (
        f"the network names {found['top1']:.2f} % of {images.name} right, as guesses among "
        f"{classes} classes would"
    )


def _guessed(classes: int, images: int) -> float:
    """The part of so many images that guesses name right, and two standard errors of it."""
    chance = 1 / classes if classes > 1 else 0.0
    return chance + 2 * (chance * (1 - chance) / images) ** 0.5


@torch.no_grad()
def scores_classes(network: nn.Module, batches: Batches) -> bool:
    """Whether a network puts out one number per class and image, and no maps, say: then labels tell
    how good it is."""
    found = tensors(output_of(network, _first(network, batches)))
    return bool(found) and found[0].dim() == 2


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
        seen = _first(reference, batches)
        output_of(reference, seen)
        kind = output_kind(reference, [seen])
    return fidelity(model, reference, batches, kind, progress)


@torch.no_grad()
def accuracy(
    model: nn.Module, batches: Iterable[object], progress: Progress = silent
) -> dict[str, float]:
    """`top1` and `top5` in percent, and the number of `images`, on batches with class numbers.

    Raises:
        DataError: a batch cannot be read, or the output is not one score per class of its labels.
        ModelError: the network does not run on it, or puts out NaN or infinity.
    """
    model.eval()
    right1 = right5 = images = 0
    for done, given in enumerate(batches := listed(batches)):
        with _in_batch(done):
            batch = read_batch(model, given)
            if not len(batch):
                continue
            scores = scores_of(_finite_output(model, batch)).cpu()
            labels = class_numbers(batch, scores.shape[1]).cpu()
        best = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
        right1 += best[:, 0].sum().item()
        right5 += best.any(1).sum().item()
        images += len(batch)
        progress("evaluate", done + 1, len(batches) if hasattr(batches, "__len__") else 0)
    if not images:
        raise DataError("no images to evaluate on")
    return {"top1": 100 * right1 / images, "top5": 100 * right5 / images, "images": images}


@torch.no_grad()
def fidelity(
    model: nn.Module,
    reference: nn.Module,
    batches: Iterable[object],
    kind: Kind,
    progress: Progress = silent,
) -> dict[str, float | None]:
    """How close a network's output is to another's, on unlabelled images.

    Returns:
        `images`; `r2`, the share of the reference's variance over images that is kept; `psnr`
        in dB, for outputs that range over 0..1 (None if equal); for logits also `kl` in nats
        and `agreement`, the percentage of images with the same class.

    Raises:
        DataError: a batch cannot be read, or there is none.
        ModelError: the networks do not run on it, or put out what cannot be compared.
    """
    model.eval(), reference.eval()
    figures = Figures(kind)
    first: Batch | None = None
    for done, given in enumerate(batches := listed(batches)):
        with _in_batch(done):
            batch = read_batch(reference, given)
            if not len(batch):
                continue
            first = first or settled(reference, batch)
            batch = batch.like(first)
            theirs = _finite_output(reference, batch)
            ours = _finite_output(model, read_batch(model, given).like(first))
            figures.add(tensors(ours), tensors(theirs), len(batch))
        progress("compare", done + 1, len(batches) if hasattr(batches, "__len__") else 0)
    if not figures.images:
        raise DataError("no images to compare on")
    return figures.found()


def _first(network: nn.Module, batches: Batches) -> Batch:
    """The first batch that is not empty."""
    found = next((b for b in (read_batch(network, each) for each in batches) if len(b)), None)
    if found is None:
        raise DataError("no images to compare on")
    return found


@contextmanager
def _in_batch(number: int) -> Iterator[None]:
    """What is wrong inside is told with the number of the batch."""
    try:
        yield
    except ConvswapError as error:
        raise type(error)(error.message, where=f"batch {number + 1}", do=error.do) from error


def _finite_output(network: nn.Module, batch: Batch) -> object:
    output = output_of(network, batch)
    if not all(tensor.isfinite().all() for tensor in tensors(output)):
        raise ModelError(f"{type(network).__name__} puts out NaN or infinity")
    return output
