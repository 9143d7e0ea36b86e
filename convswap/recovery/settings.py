"""What a run is asked for, looked at before it begins."""

from __future__ import annotations

from numbers import Integral, Real

from ..errors import ConvswapError

LARGEST = 1e30  # of what a person can mean


def check_settings(seed: int, **numbers: float | None) -> None:
    """Raise `ConvswapError` unless every number is above zero, where one is given, and the seed
    is one that PyTorch takes."""
    for name, value in numbers.items():
        if value is not None and not (isinstance(value, Real) and 0 < value <= LARGEST):
            raise ConvswapError(f"{name} must be a number above 0, not {value}")
    if not isinstance(seed, Integral) or not -(1 << 63) <= seed < 1 << 63:
        raise ConvswapError(f"seed must be a whole number of 64 bits, not {seed}")
