"""Predicted damage is brought to the scale of what is measured."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from helpers import image_batches, outputs_of
from torch import nn

from convswap import Budget, convert, survey
from convswap.planning.damage import TRIALS, TRIED, Trial, damage_scale, is_tried, samples_to_try


@pytest.fixture
def images():
    return image_batches((3, 8, 8), size=32)


@pytest.fixture
def linear():
    """Damage is exactly quadratic in the weights here."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, bias=False)).eval()


@pytest.fixture
def trials(linear, images):
    """Small changes of both layers, with what each does to the output."""
    reference, made = outputs_of(linear, images, "values"), []
    for path in "010":
        network = copy.deepcopy(linear)
        conv = network.get_submodule(path)
        conv.weight.data += 0.05 * torch.randn_like(conv.weight)
        bias = torch.zeros(len(conv.weight)) if conv.bias is None else conv.bias.detach()
        damage = reference.distance(network)
        made.append(Trial(path, conv.weight.detach().flatten(1).double(), bias, damage))
    return reference, made


@pytest.mark.parametrize("factor", [1e-4, 1.0, 30.0])
def test_a_common_error_of_all_predictions_is_found_exactly(factor, linear, trials):
    reference, made = trials
    wrong = [replace(trial, predicted=trial.predicted / factor) for trial in made]
    assert damage_scale(linear, wrong, reference) == pytest.approx(factor, rel=1e-4)


def test_the_scale_is_the_geometric_mean_of_different_errors(linear, trials):
    reference, made = trials
    wrong = [replace(t, predicted=t.predicted / f) for t, f in zip(made, (2, 4, 27), strict=True)]
    assert damage_scale(linear, wrong, reference) == pytest.approx(6, rel=1e-4)


def test_trials_leave_the_network_as_it_is(linear, trials):
    reference, made = trials
    before = copy.deepcopy(linear.state_dict())
    damage_scale(linear, made, reference)
    torch.testing.assert_close(linear.state_dict(), before, atol=0, rtol=0)
    assert linear[1].bias is None


@pytest.mark.parametrize("predicted", [0.0, 1.0])
def test_a_trial_that_says_nothing_is_left_out(predicted, linear, trials):
    """A change that does nothing, and one predicted to do nothing."""
    reference, made = trials
    same = linear[0].weight.detach().flatten(1)
    nothing = Trial("0", same if predicted else made[0].weight, linear[0].bias, predicted)
    assert damage_scale(linear, [nothing], reference) == 1.0
    wrong = [replace(made[0], predicted=made[0].predicted / 3), nothing]
    assert damage_scale(linear, wrong, reference) == pytest.approx(3, rel=1e-4)


@pytest.mark.parametrize("sites", [1, 7, 8, 9, 53, 325])
def test_a_few_sites_evenly_spread_are_tried(sites):
    tried = [index for index in range(sites) if is_tried(index, sites)]
    assert min(sites, TRIALS) / 2 <= len(tried) <= TRIALS
    assert tried[0] == 0
    assert sites - tried[-1] <= math.ceil(sites / TRIALS)


@pytest.mark.parametrize("macs", [0.4, 0.6, 0.8])
def test_on_a_quadratic_network_the_prediction_is_what_is_measured(macs, linear, images):
    plan = survey(linear, images, fit="moments").plan(Budget(macs=macs))
    small = convert(linear, plan, images)
    measured = outputs_of(linear, images, "values").distance(small)
    assert measured == pytest.approx(plan.damage, rel=0.35)


def test_trials_of_cheap_networks_look_at_more_samples():
    assert samples_to_try(10**12) == samples_to_try(10**11) == TRIED
    assert samples_to_try(4 * 10**7) == 250
