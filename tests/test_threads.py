"""PyTorch's threads are shared out, and given back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from helpers import image_batches, tiny
from hypothesis import given
from hypothesis import strategies as st

import convswap
from convswap.planning.candidates import in_lots
from convswap.support.threads import at_once, side_by_side, using_threads


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    with using_threads(request.param):
        yield request.param


def test_threads_are_given_back_whatever_happens(threads: int):
    with using_threads(3):
        assert torch.get_num_threads() == 3
    with pytest.raises(RuntimeError), using_threads(3):
        torch.zeros(2) @ torch.zeros(3)
    assert torch.get_num_threads() == threads


def test_things_done_at_once_share_the_threads(threads: int):
    with side_by_side() as map_:
        seen = list(map_(lambda index: (index, torch.get_num_threads()), range(6)))
    assert seen == [(index, threads // at_once()) for index in range(6)]
    assert torch.get_num_threads() == threads


def test_what_goes_wrong_in_one_is_told(threads: int):
    with pytest.raises(ZeroDivisionError), side_by_side() as map_:
        list(map_(lambda number: 1 / number, (1, 0)))
    assert torch.get_num_threads() == threads


@given(st.lists(st.integers(1, 100), max_size=30), st.integers(1, 4))
def test_layers_judged_together_hold_no_more_than_as_many_of_the_largest(sizes, count: int):
    held = {str(index): size for index, size in enumerate(sizes)}
    seen = [(index, (SimpleNamespace(path=path), None)) for index, path in enumerate(held)]
    lots = list(in_lots(iter(seen), held, count))
    together = [sum(held[site.path] for _, (site, _) in some) for some in lots]
    assert [one for some in lots for one in some] == seen
    assert all(each <= count * max(sizes) for each in together)
    assert all(each > (count - 1) * max(sizes) for each in together[:-1])


def test_the_plan_does_not_depend_on_how_many_layers_are_fitted_at_once():
    model, size = tiny("residual")
    images = image_batches(size)
    chosen = []
    for count in (1, 2):
        with using_threads(count):
            chosen.append(convswap.plan(model, images, convswap.Budget(macs=0.5)).choices)
    ways = [[(choice.site, choice.form, choice.rank) for choice in choices] for choices in chosen]
    assert ways[0] == ways[1]
    assert [c.damage for c in chosen[0]] == pytest.approx([c.damage for c in chosen[1]], rel=1e-3)
