"""The layers that can be replaced, and their weights as kernels."""

from __future__ import annotations

from torch import Tensor, nn

from .layer import Kernel

PLAIN: dict[int, type[nn.Module]] = {0: nn.Linear, 1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
"""By number of axes."""
TRANSPOSED: dict[int, type[nn.Module]] = {
    1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d,
}  # fmt: skip
"""The same, of those that convolve their input with zeros put between its positions."""
SAME = "timm.layers:Conv2dSame"  # it pads by its own rule; see `support.loaded`
REPLACEABLE = (*PLAIN.values(), *TRANSPOSED.values())


def is_transposed(layer: nn.Module) -> bool:
    return getattr(layer, "transposed", False)


def kernel_of(layer: nn.Module) -> Tensor:
    """The weight of a layer as a kernel, `[out, in / groups, *size]`: of the convolution that the
    layer is, or, transposed, that it is on its input with zeros put between the positions."""
    return turned(layer.weight, layer.groups) if is_transposed(layer) else layer.weight


def turned(weight: Tensor, groups: int) -> Tensor:
    """The weight of a transposed convolution, `[in, out / groups, *size]`, as a kernel; and a
    kernel as that weight."""
    axes = tuple(range(3, weight.dim() + 1))
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flip(axes).flatten(0, 1)


def unit_of(layer: nn.Module) -> Kernel:
    """The shape of the kernel of one of a layer's groups."""
    groups = getattr(layer, "groups", 1)
    first, second, *size = layer.weight.shape
    if is_transposed(layer):
        return Kernel(second, first // groups, *size)
    return Kernel(first // groups, second, *size)
