"""Pictures of what was found: the one place that draws."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConvswapError, spelled
from ..support.figures import score_name
from ..support.files import new_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..timing.layer_times import LayerTime
    from .frontier import Point

INK = "#010203"  # of lines and words in a page; becomes the colour of its text
_COLOURS = ("#1f83d6", "#e07b00", "#2f9e63")  # told apart on light and on dark paper


def check_picture(path: str | Path) -> None:
    """Raise `ConvswapError` unless the ending of a name is that of a kind of picture."""
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if Path(path).suffix[1:].lower() not in known:
        raise ConvswapError(f"{path} is not the name of a picture", do="say FILE.png or FILE.svg")


def draw_frontier(points: Sequence[Point], knee: Point, path: str | Path) -> None:
    """Write a picture of quality against multiply-adds and against time, the knee marked."""
    figure = _figure((9, 4))
    _frontier(figure, points, knee, "black")
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def frontier_svg(points: Sequence[Point], knee: Point) -> str:
    """The same picture, to be put into a page."""
    with _page_style():
        figure = _figure((9, 4))
        _frontier(figure, points, knee, INK)
        return _svg(figure)


def recovery_svg(history: Sequence[Mapping[str, float]]) -> str:
    """How far from the original network a recovery was, to be put into a page.

    Args:
        history: judgements as plain data; the first row is the start.
    """
    steps = [row["step"] for row in history]
    with _page_style():
        figure = _figure((9, 3.2))
        axes = figure.subplots()
        lines = {"trained": ("trained", ":"), "averaged": ("averaged", "--"), "best": ("kept", "-")}
        for name, (label, style) in lines.items():
            axes.plot(steps, [row[name] for row in history], style, label=label)
        if all(row["best"] > 0 for row in history):
            axes.set_yscale("log")
        axes.set_xlabel("steps")
        axes.set_ylabel("distance")
        axes.grid(alpha=0.3)
        axes.legend()
        return _svg(figure)


def _frontier(figure: Figure, points: Sequence[Point], knee: Point, ink: str) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    left.plot([100 * p.macs_kept for p in points], [p.score for p in points], "-")
    for axes, name, value in (
        (left, "multiply-adds kept, %", lambda p: 100 * p.macs_kept),
        (right, f"milliseconds per image ({knee.target})", lambda p: p.ms),
    ):
        axes.plot([value(p) for p in points], [p.score for p in points], "o", color="C0")
        axes.plot(value(knee), knee.score, "o", markersize=12, fillstyle="none", color=ink)
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    for point in points:  # more multiply-adds need not be more time: no line, but which is which
        right.annotate(
            f"{point.macs_kept:.0%}", (point.ms, point.score),
            xytext=(0, 9), textcoords="offset points", ha="center", fontsize="small",
        )  # fmt: skip
    right.set_title("labels: multiply-adds kept", fontsize="small")
    left.set_ylabel(score_name(points[0].figures))


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
        axes.bar(places, values, width, label=_plain(name))
    axes.set_xticks(
        range(len(groups)), [*map(_plain, groups)], rotation=90 if len(groups) > 3 else 0
    )
    axes.set_ylabel("milliseconds")
    axes.legend()
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


@contextmanager
def _page_style() -> Iterator[None]:
    """Words stay words, nothing depends on when it was drawn, and no colour on the paper."""
    import matplotlib

    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "convswap",
        "axes.prop_cycle": matplotlib.cycler(color=_COLOURS),
        "grid.color": INK,
        "grid.alpha": 0.2,
        "legend.frameon": False,
        **dict.fromkeys(inked, INK),
    }
    with matplotlib.rc_context(style):
        yield


def _svg(figure: Figure) -> str:
    """A figure as an SVG element without background, in the page's own colour of text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def _plain(name: str) -> str:
    """A name as it is, not read as a formula, without characters that cannot be drawn."""
    return spelled(name).replace("$", r"\$")


def _figure(size: tuple[float, float]) -> Figure:
    """A blank picture of so many inches. Matplotlib is imported here: it makes a folder of its own
    in the user's home, which those who draw nothing need not have."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")
