"""The frontier of cost and quality."""

import json

import pytest
from helpers import image_batches, tiny
from stopwatch import Clock, FakeTarget
from torch import nn

from convswap import Budget, fidelity, record_of, survey
from convswap.errors import BudgetError, ConvswapError
from convswap.results import pictures
from convswap.results.frontier import Point, knee, save_frontier, smallest_within, sweep


@pytest.fixture(scope="module")
def seen():
    model, size = tiny("residual")
    batches = image_batches(size, count=4)
    return survey(model, batches), batches


@pytest.fixture(scope="module")
def quality(seen):
    return lambda network: fidelity(network, seen[0].model, seen[1], "values")


def point(macs_kept: float, score: float) -> Point:
    return Point(macs_kept, score, 1.0, "eager", {"r2": score / 100}, None)


def test_one_survey_serves_every_budget(seen, quality):
    points = sweep(*seen, [Budget(macs=share) for share in (0.8, 0.6, 0.4)], quality)
    assert [p.macs_kept for p in points] == sorted((p.macs_kept for p in points), reverse=True)
    assert points[0].plan is None
    assert points[0].score == pytest.approx(100)
    for made, share in zip(points[1:], (0.8, 0.6, 0.4), strict=True):
        assert made.macs_kept <= share
        assert made.macs_kept == made.plan.planned.macs / made.plan.dense.macs
    assert points[1].score > points[3].score


def test_networks_are_timed_on_the_target(seen, quality, monkeypatch):
    def cost(module: nn.Module, layout: str) -> float:
        return sum(p.numel() for p in module.parameters())

    target = FakeTarget(Clock(monkeypatch), cost)
    points = sweep(*seen, [Budget(macs=0.6)], quality, target=target)
    dense = 1e3 * cost(seen[0].model, "")
    assert [p.target for p in points] == ["fake", "fake"]
    assert points[0].ms == pytest.approx(dense)
    assert points[1].ms == pytest.approx(dense * points[1].plan.planned.params
                                         / points[1].plan.dense.params)  # fmt: skip


def test_budgets_beyond_reach_are_left_out(seen, quality):
    assert len(sweep(*seen, [Budget(macs=0.7), Budget(macs=1e-6)], quality)) == 2
    with pytest.raises(BudgetError):
        sweep(*seen, [Budget(macs=1e-6)], quality)


def test_unreachable_budget_is_refused_before_anything_is_fitted(seen):
    model = seen[0].model
    steps = []
    with pytest.raises(BudgetError, match="the least these forms allow"):
        survey(
            model, seen[1], budgets=[Budget(macs=1e-6)], progress=lambda *step: steps.append(step)
        )
    assert steps == []


def test_smallest_network_within_a_drop_is_within_it_and_a_smaller_one_is_not(seen, quality):
    small, plan = smallest_within(*seen, 10.0, quality)
    assert 100 * quality(small)["r2"] >= 90.0
    assert record_of(small).plans[-1] == plan
    looser, cheaper = smallest_within(*seen, 60.0, quality)
    assert cheaper.planned.macs < plan.planned.macs
    assert 100 * quality(looser)["r2"] >= 40.0


def test_a_drop_that_nothing_meets_is_an_error(seen):
    scores = iter([100.0] + [0.0] * 20)
    with pytest.raises(ConvswapError, match=r"no conversion stays within 1\.0 points"):
        smallest_within(*seen, 1.0, lambda network: {"top1": next(scores)})


def test_knee_is_where_the_curve_bends():
    points = [point(1.0, 100), point(0.6, 99), point(0.4, 97), point(0.2, 60), point(0.1, 10)]
    assert knee(points) is points[2]


def test_frontier_is_written_as_data_and_picture(seen, quality, tmp_path):
    points = sweep(*seen, [Budget(macs=0.6)], quality)
    save_frontier(points, tmp_path)
    rows = json.loads((tmp_path / "frontier.json").read_text())
    assert [row["macs_kept"] for row in rows] == [p.macs_kept for p in points]
    assert rows[1]["plan"]["version"] == 1
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["$x^", "a$b$", "d\udcff", "a\nb", "\x1b[2J"])
def test_a_name_is_drawn_as_it_is(name, tmp_path):
    rows = {"dense": {"ms": 2.0}, name: {"ms": 1.0}}
    pictures.draw_comparison(rows, [], "eager", tmp_path / "times.svg")
    assert (tmp_path / "times.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")
