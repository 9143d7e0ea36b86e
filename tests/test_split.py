"""No image judges what it was fitted to or trained on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from convswap.inputs.split import APART, to_fit, to_judge, to_train


@given(st.integers(0, 5000), st.integers(0, 6000), st.integers(0, 9))
def test_images_judge_or_fit_and_train(total: int, count: int, seed: int):
    judge, train, fit = to_judge(total), to_train(total), to_fit(total, count, seed)
    assert len(judge) == min(APART, total // 8)
    assert sorted([*judge, *train]) == [*range(total)]
    assert {*fit} <= {*train}
    assert len(fit) == len({*fit}) == min(count, len(train))


def test_what_judges_does_not_depend_on_the_seed_and_what_fits_does():
    assert to_judge(100) == to_judge(100)
    assert to_fit(100, 20, seed=0) != to_fit(100, 20, seed=1)
