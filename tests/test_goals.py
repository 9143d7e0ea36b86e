"""One goal, whichever way it is said, gives one converted network."""

from __future__ import annotations

import pytest
from helpers import image_batches, plan_for, tiny

from convswap import Budget, count, fidelity, record_of
from convswap.plans import Drop
from convswap.results.goals import reach
from convswap.support.figures import score


@pytest.fixture(scope="module")
def dense():
    return tiny("residual")


def test_a_budget_is_met_as_counted(dense):
    model, size = dense
    small = reach(model, Budget(macs=0.6), image_batches(size), fit="moments", output="values")
    assert count(small, size).macs <= 0.6 * count(model, size).macs
    (plan,) = record_of(small).plans
    assert (plan.budget, plan.fit, plan.output) == (Budget(macs=0.6), "moments", "values")


def test_a_plan_is_done_as_it_says_but_for_what_is_asked(dense):
    model, size = dense
    goal = plan_for(model, size, {"first": ("channel", 3)}, fit="moments")
    small = reach(model, goal, image_batches(size), fit="weight", output="values")
    (plan,) = record_of(small).plans
    assert [(choice.site, choice.form, choice.rank) for choice in plan.choices] == [
        ("first", "channel", 3)
    ]
    assert (plan.fit, plan.output) == ("weight", "values")


def test_a_drop_is_judged_by_the_quality_given(dense):
    model, size = dense
    batches = image_batches(size)

    def quality(network):
        return fidelity(network, model, batches, "values")

    small = reach(model, Drop(20.0, "unused"), batches, fit="moments", quality=quality)
    assert score(quality(small)) >= 80.0
    assert count(small, size).macs < count(model, size).macs
