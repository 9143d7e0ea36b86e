"""SOAP: Adam in the eigenbasis of each gradient's second moments (Vyas et al. 2024,
arXiv:2409.11321, algorithm 3).

The layers of one form are badly conditioned against each other, which Adam, that sees each weight
by itself, does not mend: where 0.2 of ResNet-20's multiply-adds are left, one pass of SOAP came
closer to the original than two of AdamW, with the same loss and rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..support.threads import using_threads

LARGEST = 512  # a side of a weight with more entries is not turned: bases cost its cube
OFTEN = 10  # steps from one basis to the next


class Soap(torch.optim.Optimizer):
    """Each weight is taken as a matrix `[out, in * kernel]`; a vector is left to Adam.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: decay of the mean of gradients, and of their squares.
        decay: that of their second moments.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        decay: float = 0.95,
        eps: float = 1e-8,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "decay": decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        """Make a step; the first is Adam's: in the basis of one gradient most of it is zero."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._learn(parameter, group)

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over the state of another process; whatever is raised, it is damaged."""
        settings = [_kinds(group) for group in self.param_groups]
        super().load_state_dict(state_dict)
        if settings != [_kinds(group) for group in self.param_groups]:
            raise ValueError("settings of another kind")
        for parameter, state in self.state.items():
            wanted = _start(_matrix(parameter.detach().to("meta")))
            pairs = zip(state["bases"], wanted["moments"], strict=True)
            wanted["bases"] = [None if basis is None else moments for basis, moments in pairs]
            if _kinds(state) != _kinds(wanted):
                raise ValueError("tensors of another kind or shape")

    def _learn(self, parameter: Tensor, group: dict) -> None:
        state, gradient = self.state[parameter], _matrix(parameter.grad)
        parameter = _in_real_numbers(parameter)
        if not state:
            state.update(_start(gradient))
        state["step"] += 1
        for moments, product in zip(state["moments"], (_outer, _inner), strict=True):
            if moments is not None:
                moments.lerp_(product(gradient), 1 - group["decay"])
        if state["step"] % OFTEN == 1:
            with using_threads(1):  # more gain little, and can cost much: see `side_by_side`
                _turn(state)
        first, second = group["betas"]
        state["mean"].lerp_(gradient, 1 - first)
        state["squares"].lerp_(_rotated(gradient, state["bases"]).square(), 1 - second)
        if state["step"] == 1:
            change = gradient / (gradient.abs() + group["eps"])
        else:
            change = _change(state, group)
        parameter.add_(change.view_as(parameter).to(parameter.dtype), alpha=-group["lr"])


def _matrix(gradient: Tensor) -> Tensor:
    gradient = _in_real_numbers(gradient).float()
    return gradient.flatten(1) if gradient.dim() > 1 else gradient.reshape(1, -1)


def _start(gradient: Tensor) -> dict:
    """What is known of a weight before its first step."""
    turned = min(gradient.shape) > 1
    return {
        "step": 0,
        "mean": torch.zeros_like(gradient),
        "squares": torch.zeros_like(gradient),
        "moments": [
            gradient.new_zeros(size, size) if turned and size <= LARGEST else None
            for size in gradient.shape
        ],
        "bases": [None, None],
    }


def _kinds(value: object) -> object:
    """Types and shapes of what a state holds, but for the parameters of a group."""
    if isinstance(value, dict):
        return {key: _kinds(each) for key, each in value.items() if key != "params"}
    if isinstance(value, list | tuple):
        return [*map(_kinds, value)]
    if torch.is_tensor(value):
        return value.shape
    return float if isinstance(value, int) else type(value)


def _in_real_numbers(tensor: Tensor) -> Tensor:
    """Two for each that is complex."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _change(state: dict, group: dict) -> Tensor:
    """Adam's step in the bases of a weight, seen from outside."""
    first, second = group["betas"]
    mean = _rotated(state["mean"], state["bases"]) / (1 - first ** state["step"])
    size = (state["squares"] / (1 - second ** state["step"])).sqrt() + group["eps"]
    return _rotated(mean / size, [b if b is None else b.T for b in state["bases"]])


def _outer(matrix: Tensor) -> Tensor:
    return matrix @ matrix.T


def _inner(matrix: Tensor) -> Tensor:
    return matrix.T @ matrix


def _rotated(matrix: Tensor, bases: list[Tensor | None]) -> Tensor:
    """A matrix as seen in the bases of its sides."""
    left, right = bases
    matrix = matrix if left is None else left.T @ matrix
    return matrix if right is None else matrix @ right


def _turn(state: dict) -> None:
    """Take the bases closer to the eigenvectors of the moments, by one step of the power method;
    the first time, all the way."""
    for side, (moments, basis) in enumerate(zip(state["moments"], state["bases"], strict=True)):
        if moments is None:
            continue
        if basis is None:
            state["bases"][side] = _eigenvectors(moments)
            continue
        order = (basis * (moments @ basis)).sum(0).argsort(descending=True, stable=True)
        state["bases"][side] = torch.linalg.qr(moments @ basis[:, order]).Q
        state["squares"] = state["squares"].index_select(side, order)


def _eigenvectors(moments: Tensor) -> Tensor:
    # subtle: in single precision LAPACK gives up on tiny entries, or finds NaN and says nothing
    return torch.linalg.eigh(moments.cpu().double()).eigenvectors.to(moments)
