"""What exporters are shown of a network's inputs, and which of their axes may have any length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from inspect import Parameter, signature

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from ..errors import ConvswapError
from ..network.batch import Batch
from ..network.trees import tensors_in

AXES = {0: "batch", 2: "height", 3: "width"}
AT_LEAST = 2  # samples for a free batch size: of one, exporters make a constant


class TakesTensors(nn.Module):
    """A network that takes the tensors of a batch in order, all by position; everything else of the
    batch is fixed. It puts out tensors: numbers and words beside them are left out. Its parts have
    the names that they have in the network."""

    def __init__(self, model: nn.Module, batch: Batch):
        super().__init__()
        self._parameters, self._buffers = model._parameters, model._buffers
        self._modules = model._modules
        self._non_persistent_buffers_set = model._non_persistent_buffers_set
        self._of = (model, batch)  # subtle: in a tuple, so that it is no part
        self.eval()

    def forward(self, *tensors: Tensor) -> object:
        model, batch = self._of
        left = iter(tensors)
        given = batch.mapped(lambda _: next(left))
        output = (
            given.call(model, *given.args) if given.call else model(*given.args, **given.kwargs)
        )
        known = all(isinstance(leaf, (Tensor, type(None))) for leaf in tree_leaves(output))
        return output if known else tuple(tensors_in(output))


def input_names(model: nn.Module, batch: Batch) -> list[str]:
    """Names of the tensors of a batch, in order: of the arguments of `forward`, with dots to what
    is inside one. A lone one that is passed by position is `images`."""
    if len(batch.args) == 1 and isinstance(batch.args[0], Tensor) and not batch.kwargs:
        return ["images"]
    arguments = [
        name
        for name, parameter in signature(model.forward).parameters.items()
        if parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    ]
    arguments += [f"input{at}" for at in range(len(arguments), len(batch.args))]
    named = [*zip(arguments, batch.args, strict=False), *batch.kwargs.items()]
    return [name for argument in named for name in _names(*argument)]


def _names(name: str, value: object) -> Iterator[str]:
    if isinstance(value, Tensor):
        yield name
        return
    inside = value if isinstance(value, (tuple, list)) else tensors_in(value)
    for key, each in value.items() if isinstance(value, Mapping) else enumerate(inside):
        yield from _names(f"{name}.{key}", each)


def shown(
    batch: Batch, size: int | None, free_size: bool = False
) -> tuple[list[Batch], list[Batch]]:
    """Batches of one size, the first of which a file is written for; and others that differ from
    that in all lengths that are to be free.

    Args:
        size: the only batch size; None: any.
        free_size: whether height and width of maps `[n, channels, height, width]` are free.

    Raises:
        ConvswapError: there are none.
    """
    count = len(batch)
    if size is not None:
        rows = [at % count for at in range(-(-count // size) * size)]
        alike = [batch.take(rows[at : at + size]) for at in range(0, len(rows), size)]
        others = []
    elif batch.layout.lists or count < AT_LEAST:
        why = "one sample does not show how" if count < AT_LEAST else "samples come in a list"
        raise ConvswapError(f"the batch size cannot be free: {why}", do="say batch=1")
    else:
        alike, others = [batch.take(slice(AT_LEAST))], [batch.take(slice(1)), batch]
    if free_size:
        sizes = {tensor.shape[2:] for tensor in batch.tensors if _is_map(tensor)}
        if len(sizes) != 1:
            raise ConvswapError("height and width cannot be free: inputs are not of one size")
        [(height, width)] = sizes

        def larger(tensor: Tensor) -> Tensor:
            return F.interpolate(tensor, (2 * height, 3 * width)) if _is_map(tensor) else tensor

        others.append(alike[0].mapped(larger))
    return alike, others


def _is_map(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_floating_point()


def free_lengths(batch: Batch, others: Sequence[Batch]) -> list[dict[int, str]]:
    """By tensor of a batch, the axes along which others are of other lengths, with their names."""
    return [
        {
            axis: AXES[axis]
            for axis, length in enumerate(tensor.shape)
            if any(each.shape[axis] != length for each in theirs)
        }
        for tensor, *theirs in zip(*(each.tensors for each in (batch, *others)), strict=True)
    ]
