"""What 8-bit integers cost and gain, beside the same network in float32."""

from __future__ import annotations

from functools import partial

from torch import nn

from ..errors import DataError
from ..inputs.images import Images
from ..record import planned_output
from ..support.progress import Progress, silent
from ..timing.turns import take_turns
from .evaluation import accuracy, closeness, scores_classes

JUDGES = 1000  # images at most
SECONDS = 2.0  # to time both


def beside_float(
    quantised: nn.Module,
    plain: nn.Module,
    network: nn.Module,
    images: Images,
    batch: int | None = None,
    progress: Progress = silent,
) -> dict[str, dict[str, float | None]]:
    """Quality, bytes and time of both, in the runtime they are for.

    Args:
        quantised: a file as a network, that knows its `bytes`.
        plain: the same file in float32.
        network: what both were made from; closeness is to it.
        batch: the only batch size they take.
    """
    batches = list(images.batches(batch or 128, count=JUDGES))
    batches = [each for each in batches if batch is None or len(each[0]) == batch]
    if not batches:
        raise DataError(f"too few images to judge a batch of {batch}")
    labelled = images.classes and scores_classes(network, batches)
    inputs = batches[0][0][: batch or 1]
    networks, rows = {"float32": plain, "int8": quantised}, {}
    for name, each in networks.items():
        found = accuracy(each, batches, progress) if labelled else {}
        found |= closeness(each, network, batches, planned_output(network), progress)
        rows[name] = found | {"bytes": each.bytes}
    runners = {name: partial(each, inputs) for name, each in networks.items()}
    for name, time in take_turns(runners, SECONDS).items():
        rows[name]["ms"] = time.ms / len(inputs)
    return rows
