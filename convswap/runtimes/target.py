"""What every target provides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Protocol

from torch import Tensor, nn

Runner = Callable[[], object]
"""Runs one forward pass to its end and returns the outputs in the runtime's own form."""


class Target(Protocol):
    """A runtime with its settings.

    Attributes:
        cpu_only: whether it knows no other device.
        threads: CPU threads a forward pass may use.
        device, dtype: where it computes and in which floating-point type, as PyTorch names them.
    """

    name: ClassVar[str]
    cpu_only: ClassVar[bool]
    threads: int
    device: str
    dtype: str

    @property
    def layer_target(self) -> Target:
        """What times single layers in its place, by the hundred: itself unless it says another."""
        return self

    def computed(self, network: nn.Module, batches: Iterable[object]) -> nn.Module:
        """A network with the outputs it has on this target: itself, unless those are coarser.

        Args:
            batches: real inputs, for targets that must see ranges of values.
        """
        return network

    def variants(self, module: nn.Module, x: Tensor) -> dict[str, Runner]:
        """Memory layout -> runner of a module, in eval mode, on a float32 input `[n, ...]`.

        Every runner has run once. The module and the input stay as they are. A runtime that
        chooses layouts by itself has one entry, under an empty name.
        """

    def fingerprint(self) -> dict[str, str]:
        """What times depend on besides network and input: settings, versions, the machine."""
