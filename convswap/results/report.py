"""The report: one page that says what a conversion gained, what it cost, and how it was made."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from ..errors import one_line, spelled
from ..forms import FORMS
from ..network.observe import Observation
from ..planning import Survey
from ..plans import Plan, above
from ..support.figures import FIGURES, damage, quantity, score, score_name
from ..support.files import new_file
from ..support.plain import nameless
from ..timing.turns import BUSY
from . import pictures
from .differences import Case
from .frontier import Point, knee

Rows = Mapping[str, Mapping[str, float | None]]
TEMPLATE = Path(__file__).with_name("report.html.j2")
COSTS = ("macs", "params", "bytes", "ms")  # less is better: shown beside the share that is kept


@dataclass(frozen=True)
class Layer:
    """One layer, before and after, in multiply-adds.

    Attributes:
        form: what it became; empty if it was left alone.
        why: rank and damage, or why it cannot be replaced; empty if it was not worth it.
    """

    path: str
    form: str
    before: int
    after: int
    why: str


@dataclass(frozen=True)
class Table:
    """Cells of text, the first of each row its name."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Chart:
    """A picture, as SVG, with what it shows."""

    title: str
    about: str
    svg: str


@dataclass(frozen=True)
class Report:
    """What the page shows, from top to bottom.

    Attributes:
        remark: what the figures of the table are of.
        cases: the images on which the networks differ most.
        facts: where all of it comes from, name -> text.
    """

    name: str
    headline: str
    table: Table
    remark: str = ""
    layers: Sequence[Layer] = ()
    charts: Sequence[Chart] = ()
    cases: Sequence[Case] = ()
    commands: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def write_report(report: Report, path: str | Path) -> None:
    """Write a report as one HTML file that needs nothing beside it."""
    room = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: spelled(value) if type(value) is str else value,
    )  # fmt: skip
    room.filters["quantity"] = quantity
    template = room.from_string(TEMPLATE.read_text(encoding="utf-8"))
    most = max([1, *(layer.before for layer in report.layers)])
    legend = Counter(layer.form for layer in report.layers).most_common()
    page = template.render(report=report, most=most, legend=legend, forms=FORMS)
    with new_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def report_on_frontier(
    points: Sequence[Point], survey: Survey, name: str, command: str, facts: Mapping[str, object]
) -> Report:
    """The report on a sweep; layers are those of the network at its knee."""
    best, first = knee(points), points[0]
    rows = {
        name: point.figures | {"ms": point.ms, "macs": point.macs_kept * survey.dense.macs}
        for name, point in (("dense", first), ("knee", best))
    }
    cells = [
        ["dense" if point.plan is None else f"{point.macs_kept:.1%} of the MACs",
         f"{point.score:.2f}", quantity(point.macs_kept * survey.dense.macs), f"{point.ms:.2f}"]
        for point in points
    ]  # fmt: skip
    return Report(
        name=nameless(name),
        headline=f"At the knee: {headline(rows, {'target': best.target})}",
        table=Table(["", score_name(first.figures), "MACs", "ms / image"], cells),
        remark=f"Times were measured on {best.target}; no training.",
        layers=layers_of([best.plan] if best.plan else [], survey.seen),
        charts=[Chart("Frontier", "Quality against cost; the ring marks the knee.",
                      pictures.frontier_svg(points, best))],
        commands=[command], facts={key: in_words(value) for key, value in facts.items()},
    )  # fmt: skip


def headline(rows: Rows, where: Mapping[str, object]) -> str:
    """What was gained and what it cost, in one sentence; the last row beside the first."""
    before, *_, after = rows.values()
    if before.get("ms") and after.get("ms"):
        times = before["ms"] / after["ms"]
        speed = f"{times:.1f}x faster" if times >= 1.05 else f"{1 / times:.2f} of the time"
        busy = max(row.get("spread") or 0.0 for row in (before, after)) > BUSY
        how = "measured on a busy machine" if busy else "measured"
        gain = f"{speed} on {one_line(str(where.get('target', 'its target')))}, {how}"
    else:
        gain = f"{after['macs'] / max(before['macs'], 1):.0%} of the multiply-adds"
    if None not in (before.get("top1"), after.get("top1")):
        lost = round(before["top1"] - after["top1"], 2)
        cost = f"{lost:.2f} points lost" if lost > 0 else "no accuracy lost"
    elif None not in (before.get("own"), after.get("own")):
        cost = f"own measure {before['own']:.4g} -> {after['own']:.4g}"
    elif after.get("r2") is not None:
        cost = f"{score(after):.2f}% of the output's variance kept"
    else:
        cost = "quality was not measured"
    return f"{gain}; {cost}"


def stages_table(rows: Rows) -> Table:
    """One column for each network, one row for each figure; of costs the share kept as well."""
    dense, *_ = rows.values()
    shown = [key for key in FIGURES if any(row.get(key) is not None for row in rows.values())]

    def cell(key: str, row: Mapping[str, float | None]) -> str:
        if row.get(key) is None:
            return "-"
        text = FIGURES[key][1](row[key] if key != "images" else int(row[key]))
        share = key in COSTS and row is not dense and dense.get(key)
        return f"{text} ({row[key] / dense[key]:.0%})" if share else text

    cells = [[FIGURES[key][0], *(cell(key, row) for row in rows.values())] for key in shown]
    return Table(["", *rows], cells)


def layers_of(plans: Sequence[Plan], seen: Observation | None) -> list[Layer]:
    """What became of every layer, in order of execution; a later plan may change what an earlier
    one put in."""
    found: dict[str, Layer] = {}
    for choice in (choice for plan in plans for choice in plan.choices):
        inside = next((path for path in above(choice.site) if path in found), None)
        rank = choice.rank if isinstance(choice.rank, int) else "{}, {}".format(*choice.rank)
        if inside:
            old = found[inside]
            found[inside] = replace(
                old, after=old.after - choice.macs_dense + choice.macs,
                why=f"{old.why}; then {choice.form}, rank {rank}, damage {damage(choice.damage)}",
            )  # fmt: skip
        else:
            why = f"rank {rank}, damage {damage(choice.damage)}"
            found[choice.site] = Layer(
                choice.site, choice.form, choice.macs_dense, choice.macs, why
            )
    if seen is None:
        return [*found.values()]
    return [
        found.get(site.path)
        or Layer(site.path, "", site.cost.macs, site.cost.macs, site.reason or "")
        for site in seen.sites
    ]  # fmt: skip


def in_words(value: object) -> str:
    """Plain data as a person reads it, in one line, without paths of this machine."""
    value = nameless(value)
    if isinstance(value, dict):
        pairs = ((key, each) for key, each in value.items() if key != "command")
        return one_line("; ".join(f"{key} {_plain(v)}" for key, v in pairs if v is not None), 500)
    return one_line(_plain(value), 500)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
