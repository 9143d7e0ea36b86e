"""Eight-bit integers: a network quantised after training, as ONNX Runtime runs it anywhere."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import ConvswapError, DataError, one_line
from ..forms import Factorized, kernel_of, write_kernel_
from ..network.calls import Batch, read_batch
from ..network.copies import first_line
from ..network.running import output_of
from ..record import record_of, remember
from ..support.files import new_file
from ..support.quiet import quiet
from .export import OnnxNetwork, on_cpu, onnx_graph, tidy
from .inputs import shown

if TYPE_CHECKING:
    from onnx import ModelProto

IMAGES, AT_ONCE = 500, 50  # that targets see ranges on
TINY = 1e-12  # what a range is at least


def export_int8(
    model: nn.Module,
    batches: Iterable[object],
    path: str | Path,
    *,
    batch: int | None = None,
    free_size: bool = False,
    opset: int | None = None,
) -> tuple[OnnxNetwork, OnnxNetwork]:
    """Write ONNX with convolutions in 8-bit integers (static, weights per channel).

    Both weights and activations are unsigned: with signed weights processors without 8-bit dot
    products (VNNI) add in 16 bits, which overflow. (On a ResNet-20 at half of its multiply-adds
    ONNX Runtime's signed default costs 3.8 points of accuracy there, this 0.2.)

    Args:
        batches: real inputs, `[n, channels, height, width]` each, with labels or
            without: ranges are those seen on them.
        batch, free_size, opset: as for `export_onnx`.

    Returns:
        What was written as a network, and the same in float32.

    Raises:
        ConvswapError: a package is missing, or the network cannot be written.
    """
    model = on_cpu(model)
    inputs = images_of(model, batches)
    if batch is not None:
        inputs = [*torch.cat(inputs).split(batch)]
        if len(inputs[-1]) < batch:
            inputs.pop()
        if not inputs:
            raise ConvswapError(f"too few images for a batch of {batch}")
    (example, *_), others = shown(Batch((torch.cat([inputs[0]] * 2),)), batch, free_size)
    graph = tidy(onnx_graph(equalised(model, inputs), example, others=others, opset=opset))
    plain = OnnxNetwork(graph.SerializeToString())
    with new_file(path) as temporary:
        temporary.write_bytes(quantised(graph, inputs))
        return OnnxNetwork(temporary), plain


def quantised(graph: ModelProto, inputs: Iterable[Tensor]) -> bytes:
    """A graph with its convolutions in 8-bit integers, as a file's content.

    Args:
        graph: with one input, `images` or whatever its name is.
        inputs: what the ranges of activations are seen on.

    Raises:
        ConvswapError: a package is missing, or ONNX Runtime cannot.
    """
    try:
        from onnxruntime.quantization import (
            CalibrationDataReader,
            QuantFormat,
            QuantType,
            quantize_static,
        )
    except ImportError as error:
        raise ConvswapError(f"int8 needs {error.name}", do="pip install 'convswap[onnx]'") from None
    left, name = iter(inputs), graph.graph.input[0].name

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict | None:
            images = next(left, None)
            return None if images is None else {name: images.numpy()}

    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            quantize_static(
                graph, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QUInt8,
            )  # fmt: skip
            return path.read_bytes()
    except OSError:
        raise
    except Exception as error:  # such as of values whose range is no float32
        what = one_line(first_line(error), 300)
        raise ConvswapError(
            f"ONNX Runtime cannot write the network in 8 bits: {what}",
            do="look at the values it is given",
        ) from error


def in_integers(
    network: nn.Module, batches: Iterable[object], export: Callable[..., tuple[nn.Module, object]]
) -> nn.Module:
    """A network in 8-bit integers, with ranges as seen on some hundred of the inputs.

    Args:
        export: writes it, as `export_int8` does.
    """
    some = torch.cat(images_of(on_cpu(network), batches))[:IMAGES].split(AT_ONCE)
    with tempfile.TemporaryDirectory() as folder:
        made, _ = export(network, some, Path(folder) / "network")
    return remember(made, **dict(record_of(network)))


def images_of(model: nn.Module, batches: Iterable[object]) -> list[Tensor]:
    """The images of batches, with labels or without, as a network takes them.

    Raises:
        DataError: there are none, or they hold NaN or infinity.
        ModelError: the network does not run on them.
    """
    read = [batch for batch in (read_batch(model, each) for each in batches) if len(batch)]
    if not read:
        raise DataError("no images to see ranges on")
    with torch.no_grad():
        output_of(model, read[0])
    return [batch.tensors[0] for batch in read]


@torch.no_grad()
def equalised(model: nn.Module, inputs: Sequence[Tensor]) -> nn.Module:
    """Scale the channels between the layers of every replacement, in place; outputs stay.

    Nothing there is non-linear, so a channel may be larger by s where the next layer's weights
    for it are smaller by s. In 8 bits all channels share one range: with

        s = sqrt(range of the next layer's weights for it / range of its activations)

    what is rounded is of like size everywhere (cross-layer equalisation: Nagel et al. 2019). A
    depthwise layer's weights have ranges of their own per channel, and do not count.

    Args:
        inputs: what the ranges of activations are seen on, `[n, channels, height, width]` each.
    """
    rows = [module for module in model.modules() if isinstance(module, Factorized)]
    links = [link for row in rows for link in zip([*row][:-1], [*row][1:], strict=True)]
    with _ranges([before for before, _ in links]) as ranges:
        for images in inputs:
            model(images)
    for before, after in links:
        if before not in ranges:  # not run
            continue
        groups, kernel = getattr(after, "groups", 1), kernel_of(after)
        weight = kernel.unflatten(0, (groups, -1))  # [groups, out, in, *size]
        scale = 1 / ranges[before].clamp_min(TINY)
        if weight.shape[2] > 1:
            others = [axis for axis in range(weight.dim()) if axis not in (0, 2)]
            scale = (weight.abs().amax(others).flatten().clamp_min(TINY) * scale).sqrt()
        scale = scale / scale.log().mean().exp()
        write_kernel_(before, kernel_of(before) * scale.view(-1, *[1] * (kernel.dim() - 1)))
        if before.bias is not None:
            before.bias.mul_(scale)
        write_kernel_(after, weight / scale.view(groups, 1, -1, *[1] * (weight.dim() - 3)))
    return model


@contextlib.contextmanager
def _ranges(layers: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Largest absolute value of each channel of what layers put out, over all calls inside."""
    found: dict[nn.Module, Tensor] = {}

    def look(layer: nn.Module, args: tuple, output: Tensor) -> None:
        axis = output.dim() - 1 if isinstance(layer, nn.Linear) else 1
        seen = output.abs().transpose(0, axis).flatten(1).amax(1)
        found[layer] = torch.maximum(found[layer], seen) if layer in found else seen

    hooks = [layer.register_forward_hook(look) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
