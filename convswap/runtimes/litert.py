"""LiteRT (TensorFlow Lite): files for phones and small devices, and their runtime on the CPU."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..errors import ConvswapError, one_line
from ..network.batch import Batch
from ..network.copies import first_line
from ..support.files import new_file
from ..support.quiet import quiet, silent_streams
from .eager import Eager
from .export import on_cpu
from .gap import largest_gap
from .int8 import equalised, images_of, in_integers
from .machine import check_plain, describe
from .target import Runner, Target

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer.quantizer import Quantizer

SIGNATURE = "serving_default"
_FLOAT_ENDS = [
    {"regex": ".*", "operation": end, "algorithm_key": "no_quantize", "op_config": {}}
    for end in ("INPUT", "OUTPUT")
]


class LiteRtNetwork(nn.Module):
    """A LiteRT file, or its content, as a network that LiteRT runs on the CPU. It puts out a tuple.

    Attributes:
        bytes: of the file.
    """

    def __init__(self, file: Path | bytes, threads: int, channels_last: bool = False):
        super().__init__()
        content = file if isinstance(file, bytes) else file.read_bytes()
        self.bytes, self._channels_last = len(content), channels_last
        self._interpreter = _interpreter(content, threads)
        self._input, self._outputs = _ends(self._interpreter)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """`[n, channels, height, width]`, float32; as many at a time as the file takes."""
        rows = []
        for some in images.split(int(self._input["shape"][0])):
            self.read(some)
            rows.append(self.run())
        return tuple(torch.cat(column) for column in zip(*rows, strict=True))

    def read(self, images: Tensor) -> None:
        """Take in what the next runs compute with."""
        images = images.movedim(1, -1) if self._channels_last else images
        self._interpreter.set_tensor(self._input["index"], images.contiguous().numpy())

    def run(self) -> list[Tensor]:
        """Compute the outputs."""
        self._interpreter.invoke()
        found = [torch.from_numpy(self._interpreter.get_tensor(at)) for at in self._outputs]
        maps = self._channels_last
        return [each.movedim(-1, 1) if maps and each.dim() == 4 else each for each in found]


def export_tflite(
    model: nn.Module, images: Tensor, path: str | Path, *, channels_last: bool = False
) -> float:
    """Write a LiteRT file for one image at a time, checked by LiteRT against PyTorch.

    Args:
        images: real inputs `[n, channels, height, width]` that both are run on.
        channels_last: whether the file reads images, and writes maps, with channels last, as
            TensorFlow has them.

    Returns:
        The largest absolute difference of the outputs.

    Raises:
        ConvswapError: a package is missing, the network cannot be written, or the outputs differ;
            then nothing is written.
    """
    model, images = on_cpu(model), images.cpu()
    with new_file(path) as temporary:
        temporary.write_bytes(_content(model, images[:1], channels_last))
        network = LiteRtNetwork(temporary, torch.get_num_threads(), channels_last)
        return largest_gap(model, Batch((images,)), network(images))


def export_tflite_int8(
    model: nn.Module,
    batches: Iterable[object],
    path: str | Path,
    *,
    channels_last: bool = False,
) -> tuple[LiteRtNetwork, LiteRtNetwork]:
    """Write a LiteRT file whose layers are in 8-bit integers (static, weights per channel).

    Args:
        batches: real inputs, `[n, channels, height, width]` each, with labels or
            without: ranges are those seen on them.
        channels_last: as for `export_tflite`.

    Returns:
        What was written as a network, and the same in float32.

    Raises:
        ConvswapError: a package is missing, or the network cannot be written.
    """
    model = on_cpu(model)
    inputs = images_of(model, batches)
    content = _content(equalised(model, inputs), inputs[0][:1], channels_last)
    plain = LiteRtNetwork(content, torch.get_num_threads(), channels_last)
    with new_file(path) as temporary:
        temporary.write_bytes(_quantised(content, torch.cat(inputs).split(1), channels_last))
        return LiteRtNetwork(temporary, torch.get_num_threads(), channels_last), plain


class _ChannelsLast(nn.Module):
    """Reads images, and writes maps, with channels last."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> object:
        outputs = self.network(images.movedim(-1, 1))
        return tree_map_only(
            Tensor, lambda each: each.movedim(1, -1) if each.dim() == 4 else each, outputs
        )


class LiteRt(Target):
    """Runs a module as LiteRT does, on the CPU in float32 with XNNPACK, channels last."""

    name = "litert"
    cpu_only = True

    def __init__(self, threads: int, device: str, dtype: str):
        check_plain(self.name, device, dtype)
        self.threads, self.device, self.dtype = threads, device, dtype
        _converter()

    @property
    def layer_target(self) -> Eager:
        """PyTorch eager: writing a layer as a LiteRT file takes seconds, and there are hundreds.
        What LiteRT itself makes of them shows when whole networks are measured."""
        return Eager(self.threads, self.device, "float32")

    def variants(self, module: nn.Module, x: Tensor) -> dict[str, Runner]:
        """One runner."""
        x, maps = x.cpu().float(), x.dim() == 4
        content = self._written(_content(on_cpu(module).float(), x, maps), x, maps)
        network = LiteRtNetwork(content, self.threads, maps)
        network.read(x)
        network.run()
        return {"": network.run}

    def fingerprint(self) -> dict[str, str]:
        """Settings, the versions of PyTorch and of the runtime, the machine."""
        return describe(self, "torch", "ai_edge_litert")

    def _written(self, content: bytes, x: Tensor, channels_last: bool) -> bytes:
        """What is run, made of a network's file."""
        return content


class LiteRtInt8(LiteRt):
    """Runs a module in 8-bit integers, as `export_tflite_int8` writes it."""

    name = "litert-int8"

    def __init__(self, threads: int, device: str, dtype: str):
        super().__init__(threads, device, dtype)
        self.dtype = "int8"

    def computed(self, network: nn.Module, batches: Iterable[object]) -> nn.Module:
        """A network in 8-bit integers; see `in_integers`."""
        return in_integers(network, batches, export_tflite_int8)

    def _written(self, content: bytes, x: Tensor, channels_last: bool) -> bytes:
        # Time does not depend on ranges: those of one input will do.
        return _quantised(content, [x], channels_last)


def _content(model: nn.Module, images: Tensor, channels_last: bool) -> bytes:
    """A network in eval mode as a LiteRT file for inputs of just this shape."""
    litert = _converter()
    if channels_last:
        model, images = _ChannelsLast(model).eval(), images.movedim(1, -1).contiguous()
    _check_space(sum(each.nbytes for each in (*model.parameters(), *model.buffers())))
    try:
        with quiet(), silent_streams(), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.tflite"
            litert.convert(model, (images,)).export(str(path))
            return path.read_bytes()
    except Exception as error:  # converters raise whatever they like
        raise ConvswapError(
            f"LiteRT cannot write the network: {one_line(first_line(error), 300)}"
        ) from error


def _check_space(size: int) -> None:
    """Raise `OSError` unless the folder of temporary files has space for a network of so many
    bytes, twice, and for names: the converter ends the process on a full disk."""
    try:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(2 * size + (1 << 20)))
    except OSError as error:
        raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from None


def _quantised(content: bytes, inputs: Sequence[Tensor], channels_last: bool) -> bytes:
    """A file with its layers in 8-bit integers.

    Args:
        inputs: what the ranges of activations are seen on, each as many images as the file takes.
    """
    from ai_edge_quantizer import quantizer, recipe  # comes with litert-torch

    name = next(iter(_interpreter(content, 1).get_signature_list()[SIGNATURE]["inputs"]))
    images = [each.movedim(1, -1) if channels_last else each for each in inputs]
    with quiet(), silent_streams():
        made = quantizer.Quantizer(content, [*recipe.static_wi8_ai8(), *_FLOAT_ENDS])
        ranges = _ranges(made, [{name: each.contiguous().numpy()} for each in images])
        return bytes(made.quantize(ranges).quantized_model)


def _ranges(quantizer: Quantizer, inputs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What values every tensor takes at least and at most, over all inputs. (Given all at once,
    the quantizer averages over them, and cuts off what is rare.)"""
    found: dict[str, Any] = {}
    for each in inputs:
        ranges = quantizer.calibrate({SIGNATURE: [each]}, num_threads=torch.get_num_threads())
        for name, values in ranges.items():
            known = found.setdefault(name, values)
            if "min" in values:
                known["min"] = np.minimum(known["min"], values["min"])
                known["max"] = np.maximum(known["max"], values["max"])
    return found


def _converter() -> Any:
    try:
        with quiet():
            import litert_torch
    except ImportError as error:
        raise ConvswapError(
            f"LiteRT needs {error.name}",
            do="pip install 'convswap[litert]' (its litert-torch 0.10 takes PyTorch up to 2.14)",
        ) from None
    return litert_torch


def _interpreter(content: bytes, threads: int) -> Interpreter:
    from ai_edge_litert.interpreter import Interpreter

    with silent_streams():
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    return interpreter


def _ends(interpreter: Interpreter) -> tuple[dict[str, Any], list[int]]:
    """The input, and where the outputs are, in the network's order."""
    [source] = interpreter.get_input_details()
    found = interpreter.get_output_details()
    order = sorted(found, key=lambda each: int((re.findall(r"\d+", each["name"]) or ["0"])[-1]))
    return source, [each["index"] for each in order]
