"""Tables of what was found, for people; they name layers, figures and units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from ..errors import one_line
from ..forms import FORMS
from ..network.sites import Site, separable_already
from ..plans import Cost, Plan
from ..recipe.recipe import TargetSection
from ..results.frontier import Point, knee
from ..runtimes import Target
from ..support.figures import FIGURES, damage, quantity, score, score_name
from ..timing.layer_times import LayerTime

SEPARABLE, OUTSIDE = 0.1, 0.01  # of the multiply-adds: from there on it is worth a line


def sites_table(sites: Sequence[Site], total: Cost) -> Table:
    """Every convolution, with what could replace it or why nothing can."""
    table = _table("layer", ">kernel", ">out size", ">MACs", ">%", "then", "forms")
    for site in sites:
        steps = "x".join(map(str, site.stride if len({*site.stride}) > 1 else site.stride[:1]))
        way = "up " if site.transposed else "/"
        stride = f" {way}{steps}" if max(site.stride, default=1) > 1 else ""
        every = len(site.forms) == len(FORMS)
        size = site.sizes[0] if site.sizes else None
        table.add_row(
            site.path + (f" (x{site.calls})" if site.calls > 1 else ""),
            "x".join(map(str, site.kernel)) + stride,
            "x".join(map(str, size.written or (size.images,))) if size else "-",
            quantity(site.cost.macs),
            f"{100 * site.cost.macs / max(total.macs, 1):.1f}",
            "+".join(filter(None, (site.norm, site.act))).replace("BatchNorm2d", "BN") or "-",
            Text(site.reason, style="dim")
            if site.reason
            else "all"
            if every
            else " ".join(site.forms),
        )
    return table


def sites_summary(sites: Sequence[Site], total: Cost, size: tuple[int, int, int]) -> str:
    """How much of the network can be replaced."""
    replaceable = [site for site in sites if not site.reason]
    separable = separable_already(sites)
    share, done = (
        sum(site.cost.macs for site in some) / max(total.macs, 1)
        for some in (replaceable, separable)
    )
    text = (
        f"{len(replaceable)} of {len(sites)} layers can be replaced, {share:.1%} of "
        f"{quantity(total.macs)} MACs at {'x'.join(map(str, size))}; "
        f"{quantity(total.params)} parameters"
    )
    if done >= SEPARABLE:
        text += (
            f"\n{done:.1%} of the MACs are in depthwise separable layers already: of these "
            "`channel` can make the 1x1 ones low-rank, and nothing more"
        )
    outside = 1 - sum(site.cost.macs for site in sites) / max(total.macs, 1)
    if outside >= OUTSIDE and total.macs:
        text += (
            f"\n{outside:.1%} of the MACs are in none of these layers: modules of other classes, "
            "or the network's own code, multiply without calling one"
        )
    return text


def plan_table(plan: Plan) -> Table:
    """What becomes of each site that is converted."""
    timed = any(choice.ms is not None for choice in plan.choices)
    costs = [">ms before", ">after"] if timed else [">MACs before", ">after"]
    table = _table("layer", "form", ">rank", *costs, ">MACs kept", ">damage")
    for choice in plan.choices:
        rank = choice.rank if isinstance(choice.rank, int) else "{}, {}".format(*choice.rank)
        before, after = quantity(choice.macs_dense), quantity(choice.macs)
        if timed:
            before, after = (
                "-" if ms is None else f"{ms:.3f}" for ms in (choice.ms_dense, choice.ms)
            )
        table.add_row(
            choice.site,
            choice.form,
            str(rank),
            before,
            after,
            f"{choice.macs / choice.macs_dense:.0%}",
            damage(choice.damage),
        )
    return table


def plan_summary(plan: Plan) -> str:
    """What is kept of the network, and where they were measured, its damage and its time: a
    line each."""
    kept = [
        f"{name} {quantity(before)} -> {quantity(after)} ({after / before:.1%})"
        for name, before, after in (
            ("MACs", plan.dense.macs, plan.planned.macs),
            ("parameters", plan.dense.params, plan.planned.params),
        )
    ]
    many = "layer" if len(plan.choices) == 1 else "layers"
    lines = [f"{len(plan.choices)} {many} converted: {', '.join(kept)}"]
    lines += ["batch norms folded into the layers before them"] if plan.fold_norms else []
    if plan.damage_measured is not None:
        predicted, measured = damage(plan.damage), damage(plan.damage_measured)
        lines.append(f"damage {predicted} predicted, {measured} measured")
    lines += [one_line(f"note: {note}") for note in plan.notes]
    if time := plan.latency:
        where = [time.target, time.layout, f"threads {time.threads}", f"batch {time.batch}"]
        lines.append(
            f"{time.ms_dense:.3g} -> {time.ms:.3g} ms ({time.ms / time.ms_dense:.1%}) measured on "
            f"{one_line(', '.join(filter(None, where)))}; the layers alone promised "
            f"{time.ms_predicted:.3g}"
        )
        lines += [one_line(f"not used: {problem}") for problem in time.problems[:5]]
        if len(time.problems) > 5:
            lines.append(f"not used: {len(time.problems) - 5} more")
    return "\n".join(lines)


def layer_times_table(times: Sequence[LayerTime]) -> Table:
    """Every converted layer beside the one it replaced, by itself."""
    planned = any(time.ms_planned is not None for time in times)
    heads = ["layer", "form", ">rank", ">MACs", ">ms dense", ">ms", ">time"]
    table = _table(*heads, *[">plan"] * planned)
    for time in times:
        rank = time.rank if isinstance(time.rank, int) else "{}, {}".format(*time.rank)
        row = [
            time.site,
            time.form,
            str(rank),
            f"{time.macs_kept:.0%}",
            f"{time.ms_dense:.3f}",
            f"{time.ms:.3f}",
            f"{time.ms / time.ms_dense:.0%}",
        ]
        if planned:
            row.append("-" if time.ms_planned is None else f"{time.ms_planned:.3f}")
        table.add_row(*row)
    return table


def comparison_table(rows: Mapping[str, Mapping[str, float]]) -> Table:
    """Networks side by side: one row each, one column per figure that any of them has."""
    shown = [key for key in FIGURES if any(key in row for row in rows.values())]
    table = _table("", *(f">{FIGURES[key][0]}" for key in shown))
    for name, row in rows.items():
        table.add_row(
            Text(name),
            *(FIGURES[key][1](row[key]) if row.get(key) is not None else "-" for key in shown),
        )
    return table


def bench_tables(
    rows: Mapping[str, Mapping[str, float]], layers: Sequence[LayerTime], target: Target, batch: int
) -> list[Table | str]:
    """The layers, if they were timed, two networks, and how the second compares with the first."""
    dense, small = (row["ms"] for row in rows.values())
    each, left_out = ("ms", "p90", "p99"), ("spread", "images_per_second")  # to fit 80 columns
    shown = {
        name: {key: value for key, value in row.items() if key not in left_out}
        | {key: row[key] / batch for key in each}
        for name, row in rows.items()
    }
    speed = (
        f"{small / dense:.3f} of the time, {dense / small:.2f}x the speed "
        f"({target.name}, threads {target.threads}, batch {batch}, {target.dtype})"
    )
    return [*([layer_times_table(layers)] if layers else []), comparison_table(shown), speed]


def quality_summary(before: Mapping[str, float], after: Mapping[str, float], source: str) -> str:
    """What a network could do before, and what it can now."""
    return one_line(f"quality {score(before):.2f} -> {score(after):.2f} on {source}")


def run_tables(rows: Mapping[str, Mapping[str, float]], target: TargetSection) -> list[Table | str]:
    """The networks of a recipe, and where it measures time."""
    shown = {  # to fit 80 columns
        name: {key: value for key, value in row.items() if key != "spread"}
        for name, row in rows.items()
    }
    threads = f"{many} thread{'s' * (many > 1)}, " if (many := target.threads) else ""
    where = f"(time: target {target.name}, {threads}batch {target.batch})"
    return [comparison_table(shown), where]


def frontier_tables(points: Sequence[Point], dense: Cost) -> list[Table | str]:
    """The networks of a frontier, the dense one first, and where it bends."""
    rows = {
        "dense" if point.plan is None else f"macs {point.macs_kept:.3f}": point.figures
        | {"ms": point.ms, "spread": point.spread, "macs": point.macs_kept * dense.macs}
        for point in points
    }
    best = knee(points)
    kept = f"{best.macs_kept:.1%} of the MACs keep {best.score:.2f} of {points[0].score:.2f}"
    return [comparison_table(rows), f"knee: {kept} ({score_name(best.figures)})"]


class _Table(Table):
    """A table whose cells hold nothing that a terminal would take for a command."""

    def add_row(self, *cells: str | Text) -> None:
        super().add_row(*(Text(one_line(str(cell)), getattr(cell, "style", "")) for cell in cells))


def _table(*columns: str) -> Table:
    table = _Table(box=None, pad_edge=False, header_style="bold")
    folds = 0 if columns[-1].startswith(">") else len(columns) - 1  # words: names, or what is last
    for index, column in enumerate(columns):
        right = column.startswith(">")
        table.add_column(
            column.removeprefix(">"),
            justify="right" if right else "left",
            no_wrap=index != folds,
            overflow="fold",
        )
    return table
