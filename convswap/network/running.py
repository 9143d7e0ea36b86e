"""Runs of a network whose failures are told in one line."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import ConvswapError, ModelError
from .calls import Batch
from .copies import first_line


def output_of(network: nn.Module, batch: Batch) -> Any:
    """What is compared of a network's output on a batch.

    Raises:
        ModelError: the network cannot run on it.
    """
    try:
        return batch.run(network)
    except ConvswapError:
        raise
    except Exception as error:  # the network's code raises whatever it likes
        sizes = dict.fromkeys("x".join(map(str, t.shape[1:])) for t in batch.tensors)
        raise ModelError(
            f"{type(network).__name__} fails on an input of {' and '.join(sizes)}: "
            f"{first_line(error)}"
        ) from error
