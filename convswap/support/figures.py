"""How figures are shown to people: the names of their columns, their units and digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping


def quantity(count: float) -> str:
    """A count with three digits and the field's suffix: 40.6 M, 4.09 G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * size:  # what would be shown as 1e+03 of the smaller
            return f"{count / size:#.3g}".rstrip(".") + f" {unit}"
    return f"{count:.0f}"


def damage(value: float) -> str:
    """Damage with two digits; what is left of rounding is none."""
    return f"{value:.2g}" if abs(value) >= 1e-9 else "0"


FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "own": ("own measure", lambda v: f"{v:.4g}"),
    "top1": ("top-1 %", lambda v: f"{v:.2f}"),
    "top5": ("top-5 %", lambda v: f"{v:.2f}"),
    "r2": ("R2", lambda v: f"{v:.4f}"),
    "psnr": ("PSNR dB", lambda v: f"{v:.2f}"),
    "kl": ("KL nats", lambda v: f"{v:.4f}"),
    "agreement": ("same %", lambda v: f"{v:.2f}"),
    "macs": ("MACs", quantity),
    "params": ("params", quantity),
    "bytes": ("size", lambda v: f"{v / 1e6:.2f} MB"),
    "ms": ("ms / image", lambda v: f"{v:.2f}"),
    "p90": ("p90", lambda v: f"{v:.2f}"),
    "p99": ("p99", lambda v: f"{v:.2f}"),
    "spread": ("spread", lambda v: f"{v:.1%}"),
    "images_per_second": ("images / s", lambda v: f"{v:,.0f}" if v >= 100 else f"{v:#.3g}"),
    "peak_bytes": ("peak memory", lambda v: f"{v / 1e6:.1f} MB"),
    "images": ("images", lambda v: f"{v:,}"),
}
"""Name of a figure -> its column, and how a value of it is written, in the order of columns."""


def score(figures: Mapping[str, float]) -> float:
    """Quality as one number, more is better: the user's own, else top-1 accuracy or the share of
    variance kept, in percent."""
    for key in ("own", "top1"):
        if key in figures:
            return figures[key]
    return 100 * figures["r2"]


def score_name(figures: Mapping[str, float]) -> str:
    """What `score` is of some figures."""
    for key in ("own", "top1"):
        if key in figures:
            return FIGURES[key][0]
    return "variance kept %"
