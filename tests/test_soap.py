"""SOAP: Adam, but in a basis in which it works."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from convswap.recovery.soap import LARGEST, Soap


def minimised(optimizer: type, loss, weight: Tensor, steps: int, **settings) -> float:
    """What is left of a loss."""
    weight = nn.Parameter(weight.clone())
    by = optimizer([weight], **settings)
    for _ in range(steps):
        by.zero_grad()
        loss(weight).backward()
        by.step()
    return loss(weight).item()


def test_a_badly_conditioned_problem_takes_it_far_fewer_steps_than_adam():
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 12, generator=random) @ torch.randn(12, 12, generator=random)
    inputs = inputs * torch.logspace(0, -2, 12) @ torch.randn(12, 12, generator=random)
    target = inputs @ torch.randn(12, 8, generator=random)

    def loss(weight: Tensor) -> Tensor:
        return (inputs @ weight.T - target).square().mean() / target.square().mean()

    start = torch.zeros(8, 12)
    ours = minimised(Soap, loss, start, 200, lr=0.03)
    adam = min(minimised(torch.optim.Adam, loss, start, 200, lr=lr) for lr in (0.01, 0.03, 0.1))
    assert ours < adam / 3


def test_where_the_gradient_is_always_the_same_a_step_is_the_rate_whatever_its_size():
    gradient = torch.tensor([3.0, -0.01, 200.0])
    weight = nn.Parameter(torch.zeros(3))
    optimizer = Soap([weight], lr=0.1)
    for _ in range(4):
        weight.grad = gradient.clone()
        optimizer.step()
    assert torch.allclose(weight.detach(), -0.4 * gradient.sign(), atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 1, 3, 3), (5, 7, 1, 1), (4, 3, 3), (1, 9), (5,), ()])
def test_weights_of_any_shape_learn(shape: tuple[int, ...]):
    target = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left = minimised(Soap, lambda w: (w - target).square().mean(), torch.zeros(shape), 300, lr=0.05)
    assert left < 0.01 * target.square().mean()


@pytest.mark.parametrize("seed", [5, 6])  # the solver raised; it found NaN
def test_a_basis_is_found_where_gradients_are_hardly_numbers(seed: int):
    random = torch.Generator().manual_seed(seed)
    weight = nn.Parameter(torch.zeros(256, 128))
    optimizer = Soap([weight], lr=0.1)
    sizes = 1e-11 * torch.exp(-torch.arange(128) / 2)
    weight.grad = torch.randn(256, 128, generator=random) * sizes
    optimizer.step()
    for basis in optimizer.state[weight]["bases"]:
        assert torch.allclose(basis.T @ basis, torch.eye(len(basis)), atol=1e-5)


def test_a_large_side_is_not_turned():
    weight = nn.Parameter(torch.zeros(2, LARGEST + 1))
    optimizer = Soap([weight], lr=0.1)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    rows, columns = optimizer.state[weight]["bases"]
    assert rows.shape == (2, 2)
    assert columns is None


def test_a_weight_without_a_gradient_stays():
    weight, other = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = Soap([weight, other], lr=0.1)
    for _ in range(2):
        other.grad = torch.ones(2, 2)
        optimizer.step()
    assert torch.equal(weight, torch.ones(2, 2))
    assert not torch.equal(other, torch.ones(2, 2))


def test_it_goes_on_from_its_state_to_the_bit():
    def run(steps: int, state: dict | None = None, weight: Tensor | None = None):
        weight = nn.Parameter(torch.zeros(4, 3) if weight is None else weight)
        optimizer = Soap([weight], lr=0.1)
        if state:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            weight.grad = (weight - torch.arange(12.0).view(4, 3)).detach() * weight.new_tensor(
                [1, 10, 0.1]
            )
            optimizer.step()
        return weight.detach(), optimizer.state_dict()

    through, _ = run(17)
    halfway, state = run(8)
    assert torch.equal(run(9, state, halfway)[0], through)


@pytest.mark.parametrize(("place", "value"), [
    (("state", 0, "bases", 0), 0), (("state", 0, "moments", 1), torch.zeros(3, 3)),
    (("state", 0, "mean"), torch.zeros(4)), (("state", 0, "step"), None),
    (("state", 0, "bases"), [None]), (("param_groups", 0, "eps"), None),
    (("param_groups", 0, "betas"), (0.9, {})), (("param_groups", 0, "lr"), torch.zeros(0)),
])  # fmt: skip
def test_a_damaged_state_is_refused_before_the_first_step(place, value):
    weight = nn.Parameter(torch.ones(4, 4))
    by = Soap([weight], lr=0.1)
    weight.square().sum().backward()
    by.step()
    state = by.state_dict()
    by.load_state_dict(copy.deepcopy(state))
    inside, (*path, last) = state, place
    for key in path:
        inside = inside[key]
    inside[last] = value
    with pytest.raises(ValueError, match=r"another kind|argument"):
        Soap([weight], lr=0.1).load_state_dict(state)
