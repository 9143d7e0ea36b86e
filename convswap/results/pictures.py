"""Pictures of what was found: the one place that draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConvswapError
from ..support.files import new_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..timing.layer_times import LayerTime
    from .frontier import Point


def check_picture(path: str | Path) -> None:
    """Raise `ConvswapError` unless the ending of a name is that of a kind of picture."""
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if Path(path).suffix[1:].lower() not in known:
        raise ConvswapError(f"{path} is not the name of a picture", do="say FILE.png or FILE.svg")


def draw_frontier(points: Sequence[Point], knee: Point, path: str | Path) -> None:
    """Write a picture of quality against multiply-adds and against time, the knee marked."""
    figure = _figure((9, 4))
    left, right = figure.subplots(1, 2, sharey=True)
    left.plot([100 * p.macs_kept for p in points], [p.score for p in points], "-")
    for axes, name, value in (
        (left, "multiply-adds kept, %", lambda p: 100 * p.macs_kept),
        (right, f"milliseconds per image ({knee.target})", lambda p: p.ms),
    ):
        axes.plot([value(p) for p in points], [p.score for p in points], "o", color="C0")
        axes.plot(value(knee), knee.score, "o", markersize=12, fillstyle="none", color="black")
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    for point in points:  # more multiply-adds need not be more time: no line, but which is which
        right.annotate(
            f"{point.macs_kept:.0%}", (point.ms, point.score),
            xytext=(0, 9), textcoords="offset points", ha="center", fontsize="small",
        )  # fmt: skip
    right.set_title("labels: multiply-adds kept", fontsize="small")
    left.set_ylabel("top-1, %" if "top1" in points[0].figures else "variance kept, %")
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def draw_comparison(
    rows: Mapping[str, Mapping[str, float]],
    layers: Sequence[LayerTime],
    target: str,
    path: str | Path,
) -> None:
    """Write a picture of times side by side: of the layers, where they were measured, else of
    the networks.

    Args:
        rows: the original network and the converted one, as `compare` gives them.
        target: name of what ran them.
    """
    dense, small = rows
    if layers:
        groups = [layer.site for layer in layers]
        bars = {dense: [t.ms_dense for t in layers], small: [t.ms for t in layers]}
    else:
        groups, bars = [target], {name: [row["ms"]] for name, row in rows.items()}
    figure = _figure((max(4, 0.35 * len(groups) * len(bars)), 4))
    axes = figure.subplots()
    width = 0.8 / len(bars)
    for index, (name, values) in enumerate(bars.items()):
        places = [group + (index - (len(bars) - 1) / 2) * width for group in range(len(groups))]
        axes.bar(places, values, width, label=name)
    axes.set_xticks(range(len(groups)), groups, rotation=90 if len(groups) > 3 else 0)
    axes.set_ylabel("milliseconds")
    axes.legend()
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _figure(size: tuple[float, float]) -> Figure:
    """A blank picture of so many inches. Matplotlib is imported here: it makes a folder of its own
    in the user's home, which those who draw nothing need not have."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")
