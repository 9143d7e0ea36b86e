"""Surveys are kept: found again by the same network, images and settings, and by no others."""

from __future__ import annotations

import copy
import json
import math
import re

import pytest
import torch
from helpers import image_batches, tiny
from torch import nn

from convswap.errors import BudgetError, ModelError
from convswap.planning import kept, plan, survey, surveying
from convswap.plans import Budget, Layers, Plan
from convswap.support.progress import silent

MODEL, SIZE = tiny("residual")
BATCHES = image_batches(SIZE)
HALF, FIFTH = Budget(macs=0.5), Budget(macs=0.2)


@pytest.fixture
def walks(monkeypatch) -> list:
    """One entry for each time the layers are looked at anew."""
    seen, find = [], surveying.find_candidates
    monkeypatch.setattr(
        surveying, "find_candidates", lambda *args: seen.append(args) or find(*args)
    )
    return seen


def test_another_budget_looks_at_no_layer_again(walks, tmp_path):
    said = []
    first = plan(MODEL, BATCHES, HALF, cache=tmp_path)
    again = plan(
        copy.deepcopy(MODEL), BATCHES, Budget(macs=0.7), cache=tmp_path,
        progress=lambda *step: said.append(step),
    )  # fmt: skip
    assert len(walks) == 1
    assert "candidates kept from before" in {what for what, _, _ in said}
    assert first.choices
    assert again == plan(MODEL, BATCHES, Budget(macs=0.7))


@pytest.fixture
def near(monkeypatch) -> float:
    """A fifth of the multiply-adds takes a classifier that is sure of its predictions further."""
    monkeypatch.setattr(surveying, "FAR", 0.005)
    return 0.005


def sure() -> nn.Module:
    model = copy.deepcopy(MODEL)
    with torch.no_grad():
        model.head.weight.mul_(60)
    return model


def test_a_classifier_that_is_taken_far_is_looked_at_again_from_there(near, walks, tmp_path):
    model = sure()
    given = {"model": model, "batches": BATCHES, "output": "logits", "cache": tmp_path}
    assert plan(budget=Budget(macs=0.9), **given).damage < near
    assert len(walks) == 1
    said = []
    far = plan(budget=FIFTH, **given, progress=lambda what, *_: said.append(what))
    assert len(walks) == 2
    assert any("from the original: layers are judged again there" in what for what in said)
    *_, there = walks[-1]
    assert not isinstance(there.get_submodule(far.choices[0].site), nn.Conv2d)
    assert isinstance(model.get_submodule(far.choices[0].site), nn.Conv2d)
    assert plan(budget=FIFTH, **given) == far
    assert len(walks) == 2
    assert plan(model, BATCHES, FIFTH, output="logits") == far
    assert len(walks) == 4


@pytest.mark.parametrize("given", [{"output": "values"}, {"fit": "weight"}])
def test_others_are_looked_at_once(given: dict[str, str], near, walks):
    assert plan(sure(), BATCHES, FIFTH, **given).damage > near
    assert len(walks) == (given.get("fit") != "weight")


def test_where_less_comes_than_was_predicted_it_is_looked_at_once(near, walks):
    assert plan(sure(), BATCHES, HALF, output="logits").damage > near
    assert len(walks) == 1


def test_of_a_network_that_was_hardly_trained_nothing_is_tried(near, walks, monkeypatch):
    monkeypatch.setattr(surveying.Reference, "spread", lambda self: near / 2)
    monkeypatch.setattr(surveying, "fit_to_images_", pytest.fail)
    assert plan(sure(), BATCHES, FIFTH, output="logits").damage > near
    assert len(walks) == 1


def test_where_the_converted_network_does_not_run_the_first_choice_stays(near, monkeypatch):
    def fails(*args: object) -> None:
        raise ModelError("it asks for the class of a layer")

    monkeypatch.setattr(surveying, "fit_to_images_", fails)
    made = survey(sure(), BATCHES, output="logits").plan(FIFTH)
    assert made.damage > near
    monkeypatch.setattr(surveying, "FAR", math.inf)
    assert made == survey(sure(), BATCHES, output="logits").plan(FIFTH)


def test_a_budget_that_was_met_stays_met(near, monkeypatch):
    """Of time: measured again, the same network may take longer."""
    times = []

    def meets_once(survey: surveying.Survey, *args, **given) -> Plan:
        times.append(survey.options)
        if len(times) > 1:
            raise BudgetError("budget cannot be met")
        return survey._choose(FIFTH, None, 1, silent)

    monkeypatch.setattr(surveying, "meet_latency", meets_once)
    first = survey(sure(), BATCHES, output="logits")
    made = first.plan(Budget(latency=0.5))
    assert len(times) == 2
    assert times[0] != times[1]
    assert made == first._choose(FIFTH, None, 1, silent)


def test_without_a_folder_nothing_is_kept(walks, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        plan(MODEL, BATCHES, HALF)
    assert len(walks) == 2
    assert not [*tmp_path.iterdir()]


class Louder(nn.Module):
    """The network, with a factor that no tensor and no name of a module tells."""

    def __init__(self, factor: float):
        super().__init__()
        self.inner, self.factor = copy.deepcopy(MODEL), factor

    def forward(self, x):
        return self.inner(x * self.factor)


def nudged(what: str) -> nn.Module:
    model = copy.deepcopy(MODEL)
    with torch.no_grad():
        {"weight": next(model.parameters()), "buffer": next(model.buffers())}[what].view(-1)[0] += 1
    return model


OTHERS = {
    "weight": {"model": nudged("weight")},
    "buffer": {"model": nudged("buffer")},
    "image": {"batches": [*BATCHES[:-1], BATCHES[-1] + 1e-6]},
    "fewer images": {"batches": BATCHES[:-1]},
    "seed": {"seed": 1},
    "output": {"output": "logits"},
    "picked": {"output": lambda output: output[:, :2]},
    "layers": {"layers": Layers(exclude=("stem",))},
    "call": {"call": lambda model, batch: model(batch.flip(3))},
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_differs_is_looked_at(other: str, walks, tmp_path):
    given = {"model": MODEL, "batches": BATCHES, "budget": Budget(macs=0.6), "cache": tmp_path}
    plan(**given)
    plan(**given | OTHERS[other])
    assert len(walks) == 2


def test_what_forward_does_counts(walks, tmp_path):
    for factor in (1.0, 1.5, 1.0):
        plan(Louder(factor), BATCHES, HALF, cache=tmp_path)
    assert len(walks) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-30],
        lambda text: text.replace('"channel"', '"chanel"'),
        lambda text: text.replace('"damages"', '"harm"'),
        lambda text: json.dumps(json.loads(text) | {"damages": {}}),
        lambda text: "",
        lambda text: re.sub(r"\d\.\d+e?-?\d*", "1e308", text),
        lambda text: re.sub(r"\d\.\d+e?-?\d*", "NaN", text),
        lambda text: text.replace('"cut_off":[]', '"cut_off":["\\u001b[31mred"]'),
    ],
)  # fmt: skip
def test_a_damaged_file_is_passed_over_and_replaced(damage, walks, tmp_path):
    wanted = plan(MODEL, BATCHES, HALF, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    text = file.read_text()
    file.write_text(damage(text))
    assert plan(MODEL, BATCHES, HALF, cache=tmp_path) == wanted
    assert len(walks) == 2
    assert file.read_text() == text


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    assert plan(MODEL, BATCHES, HALF, cache=tmp_path / "file" / "surveys").choices


def test_the_oldest_files_go(walks, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "FILES", 2)
    for seed in range(3):
        plan(MODEL, BATCHES, HALF, seed=seed, cache=tmp_path)
    assert len([*tmp_path.iterdir()]) == 2
    plan(MODEL, BATCHES, HALF, seed=2, cache=tmp_path)
    assert len(walks) == 3


def test_a_budget_out_of_reach_is_still_refused_at_once(walks, tmp_path):
    with pytest.raises(BudgetError):
        plan(MODEL, BATCHES, Budget(macs=0.001), cache=tmp_path)
    assert not walks
    assert not [*tmp_path.iterdir()]
