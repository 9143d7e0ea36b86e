"""Run and trace a network to see what is in it; nothing is computed and nothing is changed."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from timm.layers import get_notrace_functions, get_notrace_modules
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves
from torchvision.models.feature_extraction import NodePathTracer

from ..errors import ModelError


def deep_copy(model: nn.Module, memo: dict[int, object] | None = None) -> nn.Module:
    """A copy of a network, also of one that keeps tensors computed in an earlier pass (timm's
    levit: attention biases), which `copy.deepcopy` refuses if they have a gradient history.

    Args:
        memo: by id, what stands in the copy for some tensors.
    """
    memo = {} if memo is None else memo
    for module in model.modules():
        for leaf in tree_leaves(vars(module)):
            if isinstance(leaf, Tensor) and not leaf.is_leaf:
                memo.setdefault(id(leaf), leaf.detach().clone())
    return copy.deepcopy(model, memo)


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of the module tree whose tensors have shapes but no storage."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta", requires_grad=False)
        memo[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return deep_copy(model, memo)


def dry_copy(model: nn.Module, input_size: Sequence[int]) -> tuple[nn.Module, Tensor]:
    """A copy of a network in eval mode, and a blank image `[1, *input_size]` it can run on.

    On the meta device, where running computes nothing, if the network allows it; else (its
    control flow depends on values) for real, on the CPU.

    Raises:
        ModelError: the network cannot run on such an image.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    for device in ("meta", "cpu"):
        duplicate = meta_copy(model) if device == "meta" else deep_copy(model).to(device)
        duplicate.eval().requires_grad_(False)
        image = torch.zeros(1, *input_size, dtype=dtype, device=device)
        try:
            duplicate(image.clone())
            return duplicate, image
        except Exception as error:
            problem = error
    size = "x".join(map(str, input_size))
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    raise ModelError(f"{type(model).__name__} fails on an image of {size}: {lines[0]}")


def trace(model: nn.Module) -> tuple[fx.Graph | None, str]:
    """The symbolic graph of a network with its convolutions as leaves.

    Returns:
        The graph, or None and one line saying why it cannot be traced.
    """
    tracer = NodePathTracer(
        autowrap_functions=tuple(get_notrace_functions()),
        leaf_modules=list(get_notrace_modules()),
    )
    try:
        return tracer.trace(meta_copy(model).eval()), ""
    except Exception as error:  # tracing runs the user's code
        lines = str(error).strip().splitlines() or [""]
        return None, f"torch.fx cannot trace {type(model).__name__}: {lines[0]}"


def first_tensor(batch: object) -> Tensor:
    """The input of a batch: a tensor, or the first entry of a tuple or list."""
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], Tensor):
        return batch[0]
    kind = type(batch).__name__
    raise TypeError(f"a batch is a tensor or a tuple whose first is one, not {kind}")


def check_finite(model: nn.Module) -> None:
    """Raise `ModelError` naming the parameters and buffers that hold NaN or infinity."""
    bad = [name for name, tensor in model.state_dict().items()
           if tensor.is_floating_point() and not tensor.isfinite().all()]  # fmt: skip
    if bad:
        shown = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
        raise ModelError(f"weights are NaN or infinite: {shown}", do="check the weights file")
