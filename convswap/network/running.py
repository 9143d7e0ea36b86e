"""Runs of a network whose failures are told in one line."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import ConvswapError
from .calls import Batch
from .copies import failure


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
        raise failure(network, batch, error) from error
