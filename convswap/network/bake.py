"""Layers that compute their weight, or pad in their own way, as plain ones that do the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from ..forms import PLAIN, REPLACEABLE, SAME, TRANSPOSED, become_, is_transposed, pad_ends_, unit_of
from ..support.loaded import loaded
from .calls import noise
from .copies import deep_copy, in_eval_mode
from .cost import Size

_CALLS = {
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d",
}  # fmt: skip
_FORWARDS = {"forward", "_conv_forward"}
_SETTINGS = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the largest output; else 3e-2


def bake(layer: nn.Module, size: Size, dtype: torch.dtype | None = None) -> nn.Module | None:
    """A plain layer that computes what this one does in eval mode, compared on noise.

    Its weight is the one that reaches the convolution: standardised, normalised by weight or
    spectral norm, or otherwise parametrised.

    Args:
        layer: on the meta device, it is tried with random values.
        size: of a map that the layer reads.
        dtype: of what it reads; default: that of its weight, which may be cast to another.

    Returns:
        None if there is none; on the device of the layer.
    """
    own_padding = getattr(layer, "padding_mode", "zeros") not in ("zeros", "constant")
    if not isinstance(layer, REPLACEABLE) or own_padding or layer._forward_hooks:
        return None
    device = layer.weight.device
    layer = in_eval_mode(deep_copy(layer))
    if device.type == "meta":
        layer, size = _with_values_(layer), _least(layer, size)
    channels, axes = unit_of(layer).in_channels * getattr(layer, "groups", 1), len(size.read)
    x = noise((1, channels, *size.read) if axes else (1, 2, channels))
    x = x.to(layer.weight.device, dtype or layer.weight.dtype)
    # subtle: a weight may depend on what is read, on chance or on the call, or values be cut off
    inputs = x, 8 * x + 1
    try:
        with torch.no_grad(), _Heard() as heard:
            wanted = [layer(x) for x in inputs]
        weight, bias = heard.weights
        size = Size(size.read, tuple(wanted[0].shape[2:]) if axes else ())
    except Exception:  # it runs the user's code, or calls no convolution, or several
        return None
    if weight.shape != layer.weight.shape:
        return None
    for make in _candidates(layer, axes, size):
        with torch.device("meta"):
            plain = make(bias is not None)
        plain.weight = nn.Parameter(weight.detach())
        plain.bias = None if bias is None else nn.Parameter(bias.detach())
        try:
            with torch.no_grad():
                got = [plain(x) for x in inputs]
        except RuntimeError:  # padded like this, the map is too small for the kernel
            continue
        if all(map(_are_alike, got, wanted)):
            plain = plain if device.type == "meta" else deep_copy(plain)  # they may be views
            return plain.eval().to(device)
    return None


def _are_alike(got: Tensor, wanted: Tensor) -> bool:
    if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
        return False
    closest = TOLERANCE.get(wanted.dtype, 3e-2) * wanted.abs().max()
    return bool((got - wanted).abs().max() <= closest)


@torch.no_grad()
def _with_values_(layer: nn.Module) -> nn.Module:
    """A layer on the meta device with random values, none of them negative: some are variances."""
    # subtle: over and over, for as many as there are weights would take longer than all else
    random = torch.rand(65537, generator=torch.Generator().manual_seed(0))
    layer = layer.to_empty(device="cpu")
    for tensor in (*layer.parameters(), *layer.buffers()):
        if tensor.is_floating_point():
            some = random.repeat(-(-tensor.numel() // len(random)))[: tensor.numel()]
            tensor.copy_(some.view(tensor.shape))
        else:
            tensor.zero_()
    return layer


def _least(layer: nn.Module, size: Size) -> Size:
    """A smaller map on which a layer pads as on a large one."""
    axes = len(size.read)
    if not axes:
        return size
    strides, dilations = _each(layer.stride, axes), _each(layer.dilation, axes)
    reach = [d * k for d, k in zip(dilations, layer.weight.shape[2:], strict=True)]
    least = [
        min(n, 3 * (far + s) + (n - 3 * (far + s)) % s)
        for n, far, s in zip(size.read, reach, strides, strict=True)
    ]
    return Size(tuple(least), size.written)


def baked(model: nn.Module, plain: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of a network with plain layers in place of some; itself if there are none.

    Args:
        plain: by path, what `bake` found.
    """
    if not plain:
        return model
    model = deep_copy(model)
    for path, layer in plain.items():
        become_(model.get_submodule(path), deep_copy(layer))
    return model


def padding_of(layer: nn.Module) -> tuple[int, ...] | str | None:
    """How a plain layer pads, for whoever builds another like it: in numbers (one for each axis,
    or two, before and after), or `same`."""
    if isinstance(layer, loaded(SAME)):
        return "same"
    if getattr(layer, "padding_mode", "zeros") == "constant":
        ends = layer._reversed_padding_repeated_twice
        return tuple(pad for at in range(len(ends) - 2, -1, -2) for pad in ends[at : at + 2])
    padding = getattr(layer, "padding", None)
    return (0,) * (layer.weight.dim() - 2) if padding == "valid" else padding


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer computes what its weight says, and moves over its input as its settings
    say."""
    kind = type(layer)
    if _FORWARDS & vars(layer).keys():  # put in their place on this one layer
        return False
    if kind in loaded(SAME):
        return True
    return _as_built(layer) and any(
        issubclass(kind, plain)
        and kind.forward is plain.forward
        and getattr(kind, "_conv_forward", None) is getattr(plain, "_conv_forward", None)
        for plain in REPLACEABLE
    )


def _as_built(layer: nn.Module) -> bool:
    """Whether the settings of a convolution are as its constructor leaves them: many networks
    change stride, dilation and padding later, to numbers too, and what was derived from them
    stays behind."""
    axes = layer.weight.dim() - 2
    if isinstance(layer, nn.Linear):
        return True
    settings = {name: getattr(layer, name) for name in _SETTINGS if hasattr(layer, name)}
    kinds = TRANSPOSED if is_transposed(layer) else PLAIN
    if is_transposed(layer):
        settings["output_padding"] = layer.output_padding
    try:
        built = kinds[axes](layer.groups, layer.groups, device="meta", **settings)
    except (TypeError, ValueError, RuntimeError):
        return False
    names = (*settings, "_reversed_padding_repeated_twice")
    return all(getattr(built, name) == getattr(layer, name) for name in names)


def _each(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


def computes_weight(layer: nn.Module) -> bool:
    """Whether a layer makes its weight anew in every pass, in a forward of its own, by
    parametrisation, or by the hooks of weight norm, spectral norm and pruning; or keeps it as a
    buffer."""
    hooks = layer._forward_pre_hooks.values()
    norms = [isinstance(hook, (WeightNorm, SpectralNorm, BasePruningMethod)) for hook in hooks]
    buffers = not {"weight", "bias"}.isdisjoint(layer._buffers)
    computes = hasattr(layer, "parametrizations") or not is_plain(layer)
    return buffers or computes or (any(norms) and all(norms))


def hides_weights(layer: nn.Module, weight: Tensor) -> bool:
    """Whether a layer that computes its weight masks a part of it, so that outputs cannot depend on
    some of what is read: whole taps (van den Oord et al. 2016), or where a tensor that it holds is
    zero (MADE: Germain et al. 2015). What pruning hides could as well be there.

    Args:
        weight: the one that reaches the convolution.
    """
    hooks = layer._forward_pre_hooks.values()
    if weight.is_meta or any(isinstance(hook, BasePruningMethod) for hook in hooks):
        return False
    hidden = weight == 0
    if hidden.all():  # not trained
        return False
    if hidden.dim() > 2 and hidden.flatten(2).all(0).all(0).any():
        return True
    held = [*layer.buffers(), *layer.parameters(), *filter(torch.is_tensor, vars(layer).values())]
    alike = [each for each in held if each.shape == weight.shape]
    masks = [each == 0 for each in alike if torch.equal(each != 0, each == 1)]
    return any(mask.any() and hidden[mask].all() for mask in masks)


def _candidates(layer: nn.Module, axes: int, size: Size) -> Iterator[Callable[[bool], nn.Module]]:
    """Ways to build a plain layer of the same shape, that differ in how they pad."""
    if not axes:
        yield lambda bias: nn.Linear(layer.in_features, layer.out_features, bias)
        return
    settings = {
        "kernel_size": layer.weight.shape[2:], "groups": layer.groups,
        "stride": _each(layer.stride, axes), "dilation": _each(layer.dilation, axes),
    }  # fmt: skip
    if is_transposed(layer):
        settings |= {"padding": layer.padding, "output_padding": layer.output_padding}
        yield lambda bias: TRANSPOSED[axes](
            layer.in_channels, layer.out_channels, bias=bias, **settings
        )
        return
    reach = [d * (k - 1) for d, k in zip(settings["dilation"], layer.weight.shape[2:], strict=True)]
    lengths = zip(size.read, size.written, reach, settings["stride"], strict=True)
    wanted = [max(0, (out - 1) * s + far + 1 - n) for n, out, far, s in lengths]
    fitting = tuple(min(far, (n + 1) // 2) for n, far in zip(wanted, reach, strict=True))

    def built(bias: bool, kind: type = PLAIN[axes], padding: object = 0) -> nn.Module:
        channels = layer.in_channels, layer.out_channels
        return kind(*channels, padding=padding, bias=bias, **settings)

    yield partial(built, padding=layer.padding)
    yield partial(built, padding=fitting)
    if axes == 2:
        from timm.layers import Conv2dSame

        yield partial(built, kind=Conv2dSame)
    for ends in _uneven(wanted, reach):
        yield lambda bias, ends=ends: pad_ends_(built(bias), ends)


def _uneven(wanted: Sequence[int], reach: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    """Zeros before and after each axis, not as many: causal along all axes, or along the first
    alone (time before space); the other way round; and the odd one before or after.

    Args:
        wanted: so many at least make the output as long as it is.
        reach: so many make it see no later position.
    """
    half = [(n // 2, n - n // 2) for n in wanted]
    for causal in (wanted, reach):
        before = [(n, 0) for n in causal]
        yield before
        yield [before[0], *half[1:]]
    yield [(0, n) for n in wanted]
    yield half
    yield [(after, before) for before, after in half]


class _Heard(TorchFunctionMode):
    """The weight and bias of the convolution that is called inside, once in each of two passes."""

    def __init__(self):
        super().__init__()
        self._calls: list[tuple[Tensor, Tensor | None]] = []

    @property
    def weights(self) -> tuple[Tensor, Tensor | None]:
        """Raises ValueError unless there were just two calls, with the same."""
        first, second = self._calls
        for a, b in zip(first, second, strict=True):
            if not (a is b or torch.equal(a, b)):
                raise ValueError
        return first

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.__name__ in _CALLS:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            self._calls.append((given["weight"], given.get("bias")))
        return func(*args, **kwargs)
