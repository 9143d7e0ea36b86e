"""The images that layers are fitted to: how many there is memory for, and the batches of them."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import ConvswapError, DataError
from ..network.memory import free_bytes, in_flight_bytes
from ..record import record_of
from ..statistics.moments import fit_bytes
from ..support.progress import Note, unheard
from .images import open_images
from .split import to_fit

LEAST = 4  # images of each process, where several share them


def calibration_batches(
    model: nn.Module,
    source: str | None,
    *,
    count: int = 1000,
    batch_size: int = 64,
    memory: float | None = None,
    seed: int = 0,
    share: tuple[int, int] = (0, 1),
    note: Note = unheard,
) -> list[tuple[Tensor, ...]]:
    """Batches to fit a network's layers to, on its device; none without a source.

    Args:
        model: with its preprocessing settled.
        source: as for `open_images`.
        count: how many images to draw, by `seed`, from those that do not judge (`inputs.split`);
            fewer where there is no memory for so many.
        memory: GiB that images in flight may take; default: half of what is free.
        share: `(which, of)`: only this part of the images; the others are read elsewhere.
        note: told what was decided about the source, and about images that were left out.

    Raises:
        DataError: the images cannot be read, or are too few to be shared.
        ConvswapError: there is no memory for one image.
    """
    if source is None:
        return []
    images = open_images(source, record_of(model).preprocess, note=note)
    count = within_memory(model, min(count, len(images)), memory, note)
    if count < LEAST * share[1] > LEAST:
        raise DataError(f"{count} images are too few for {share[1]} processes")
    device = next(model.parameters()).device
    return [
        tuple(item.to(device) for item in batch)
        for batch in images.batches(batch_size, only=to_fit(len(images), count, seed), share=share)
    ]


def within_memory(
    model: nn.Module, count: int, memory: float | None = None, note: Note = unheard
) -> int:
    """As many of `count` images as can be in flight at once; arguments as above."""
    each = 2 * in_flight_bytes(model, record_of(model).preprocess.input_size)
    free = free_bytes(next(model.parameters()).device)
    if memory is None and free is None:
        return count
    if memory is not None:
        limit = memory * 2**30
    else:  # the rest is for what fitting takes, and for others
        limit = min(free / 2, free - fit_bytes(model))
    fits = int(limit // each)
    if fits < 1:
        raise ConvswapError(
            f"memory of {max(limit, 0) / 2**30:.2g} GiB is too little: one image takes "
            f"{each / 2**30:.2g} GiB",
            do="allow more (--memory), or use a smaller --input-size",
        )
    if fits < count:
        note(
            f"{fits} images in place of {count}: more would hold over {limit / 2**30:.3g} GiB "
            "(--memory)"
        )
    return min(fits, count)
