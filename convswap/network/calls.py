"""How a batch is passed to a network: the one place that knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..errors import DataError
from ..plans import Input
from ..record import record_of
from ..support.randomness import seeded
from .batch import Batch, Call, noise
from .between import kept_by
from .guess import guessed, laid_out
from .match import Match, Pick, find_match, tensors
from .trees import is_array, tensor_of

__all__ = [
    "Batch", "Call", "example_of", "listed", "noise", "read_batch", "read_batches", "settled",
    "stand_in",
]  # fmt: skip
_COMPUTED = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # not merely kept in
AT_ONCE = 64  # samples, where they do not come in batches


def read_batches(
    model: nn.Module, batches: object, call: Call | None = None, pick: Pick | None = None
) -> list[Batch]:
    """Batches as users have them, as a network takes them: on its device and in its type.

    A batch is a tensor, a tuple or list of inputs with labels after them, a mapping, or a list
    of images or mappings; how much of it is input follows from the arguments of `forward`.

    Args:
        batches: see `listed`.
        call: passes a batch to the network where guessing is wrong.
        pick: takes what is compared out of an output; default: all of it, or what the network's
            parts put out, where the whole varies.

    Raises:
        DataError: a batch holds no tensor, or values that are not finite.
    """
    found = [
        read_batch(model, batch, call, f"batch {index}")
        for index, batch in enumerate(listed(batches))
    ]
    found = [batch for batch in found if len(batch)]
    if not found:
        return []
    first = settled(model, found[0], pick)
    return [batch.like(first) for batch in found]


def settled(model: nn.Module, batch: Batch, pick: Pick | None = None) -> Batch:
    """A batch that knows, of running the network on it, how its samples are taken apart, what the
    network keeps from call to call, and what is compared. (A network that runs on none of it is
    refused where it is observed.)"""
    trimmed = replace(batch, layout=replace(batch.layout, trims=True))
    for way in (batch, *[trimmed] * bool(batch.layout.lengths), batch.whole()):
        try:
            way = replace(way, kept=_kept_by(model, way))
            return replace(way, match=Match(pick) if pick else find_match(model, way))
        except Exception:  # of the network's own code
            continue
    return replace(batch, match=Match(pick))


@torch.no_grad()
def _kept_by(model: nn.Module, batch: Batch) -> tuple[str, ...]:
    """Modules that keep something from one call to the next."""
    one = batch.take([batch.layout.shortest((batch.args, batch.kwargs))])

    def run(batch: Batch) -> list[Tensor]:
        with seeded(0):
            return tensors(batch.forward(model))

    return kept_by(model, lambda: run(one), lambda: run(batch.take(slice(0, 2))))


def listed(batches: object) -> Iterable[object]:
    """Batches, of what can stand for them: an iterable of batches, a dataset, one tensor or array
    of all samples, or one mapping.

    Raises:
        DataError: it is something else.
    """
    if isinstance(batches, Dataset) and not isinstance(batches, IterableDataset):
        return _PutTogether(batches)
    if is_array(batches):
        batches = tensor_of(batches)
    if isinstance(batches, Tensor):
        return batches.split(AT_ONCE)
    if isinstance(batches, (Batch, Mapping)):
        return [batches]
    if not any(hasattr(type(batches), name) for name in ("__iter__", "__getitem__")):
        raise DataError(
            f"{type(batches).__name__} holds no batches", do="give a list, a loader or a dataset"
        )
    return batches


class _PutTogether:
    """Batches of the samples of a dataset."""

    def __init__(self, samples: Dataset):
        self.loader = DataLoader(samples, AT_ONCE)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[object]:
        try:
            yield from self.loader
        except (TypeError, RuntimeError) as error:  # no tensors, or of several sizes
            raise DataError(
                f"samples of {type(self.loader.dataset).__name__} do not make a batch: {error}",
                do="have it give tensors of one size, or give batches of your own loader",
            ) from error


def read_batch(
    model: nn.Module, batch: object, call: Call | None = None, name: str = "a batch"
) -> Batch:
    """One batch; see `read_batches`.

    Args:
        name: of it, for messages.
    """
    if isinstance(batch, Batch):
        found = batch
    elif call is not None:
        found = Batch((batch,), call=call)
    else:
        found = guessed(model, _with_tensors(batch))
    if not found.tensors:
        raise DataError(
            f"no tensor in a batch of type {type(batch).__name__}",
            do="give tensors, as the network's transforms make them, tuples or dicts of them, or "
            "say call=lambda model, batch: ...",
        )
    if any(tensor.is_nested for tensor in found.tensors):
        raise DataError(f"{name} holds a nested tensor", do="give a list of tensors, or pad them")
    device, dtype = _home(model)
    if any(tensor.is_meta for tensor in found.tensors) and device != torch.device("meta"):
        raise DataError(f"{name} is on the meta device: it has no values")
    if not isinstance(batch, Batch):
        found = laid_out(model, found)
    placed = found.to(device, dtype)
    for given, tensor in zip(found.tensors, placed.tensors, strict=True):
        if tensor.is_floating_point() or tensor.is_complex():
            _check_finite(given, tensor, name)
    return placed


def _with_tensors(batch: object) -> object:
    """A batch whose arrays are tensors."""
    if is_array(batch):
        return tensor_of(batch)
    if isinstance(batch, Mapping) and any(map(is_array, batch.values())):
        return {key: _with_tensors(value) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)) and any(map(is_array, batch)):
        return [_with_tensors(value) for value in batch]
    return batch


def _home(model: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
    """Where a network is, and in what type its first layer computes."""
    found = [parameter for parameter in model.parameters() if parameter.dtype in _COMPUTED]
    layers = [parameter for parameter in found if parameter.dim() > 1] or found
    return (layers[0].device, layers[0].dtype) if layers else (None, None)


def _check_finite(given: Tensor, tensor: Tensor, name: str) -> None:
    held = tensor
    if tensor.layout != torch.strided:
        held = tensor.coalesce().values() if tensor.layout == torch.sparse_coo else tensor.values()
    finite = held.isfinite()
    if tensor.is_meta or finite.all():
        return
    rows = ~finite.reshape(len(finite), -1).all(1) if finite.dim() else finite[None]
    told = finite.dim() and held is tensor
    where = f", first in sample {rows.nonzero()[0].item()}" if told else ""
    if given.to_dense().isfinite().all():
        raise DataError(
            f"{name} holds values too large for {str(tensor.dtype)[6:]}{where}",
            do="leave those samples out, or use a network of another type",
        )
    raise DataError(f"{name} holds NaN or infinite values{where}", do="leave those samples out")


def example_of(model: nn.Module, input_size: Sequence[int] | object) -> Batch:
    """One sample to look at a network with: noise of a size `(channels, height, width)`, zeros
    where it was planned for whole numbers; or the first of a batch."""
    if isinstance(input_size, Sequence) and all(isinstance(n, int) for n in input_size):
        numbers = read_batch(model, torch.zeros((1, *input_size), dtype=torch.long))
        seen = [each for plan in record_of(model).plans[-1:] for each in plan.inputs]
        if [(each.dtype, each.shape[1:]) for each in seen] == [("int64", tuple(input_size))]:
            return numbers
        return replace(read_batch(model, noise((1, *input_size))), instead=numbers)
    batch = read_batch(model, input_size)
    if not isinstance(input_size, Batch) and not batch.in_rows:
        batch = settled(model, batch)
    return replace(batch.take(slice(0, 1)), instead=batch.whole())


def stand_in(model: nn.Module, inputs: Sequence[Input]) -> Batch:
    """Noise, or zeros where numbers are whole, in the shapes of inputs that were seen."""
    values = {}
    for seen in inputs:
        dtype = getattr(torch, seen.dtype)
        real = dtype.is_floating_point
        values[seen.name] = noise(seen.shape) if real else torch.zeros(seen.shape, dtype=dtype)
    args = tuple(value for name, value in values.items() if name.isdigit())
    kwargs = {name: value for name, value in values.items() if not name.isdigit()}
    return read_batch(model, Batch(args, kwargs))
