"""Networks as `torch.export` programs, which need no convswap, and which other tools start from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.fx import Node

from ..errors import ConvswapError
from ..network.calls import Batch, read_batch
from ..network.copies import shared_copy
from ..support.files import new_file
from ..support.quiet import quiet, silent_streams
from .export import ONE, on_cpu, why_not
from .gap import largest_gap
from .inputs import free_lengths, shown

if TYPE_CHECKING:
    from torch.export import ExportedProgram

aten = torch.ops.aten
_CONVOLUTIONS = (aten.conv1d, aten.conv2d, aten.conv3d)


def export_program(
    model: nn.Module, inputs: object, path: str | Path, *, batch: int | None = None
) -> float:
    """Write a `torch.export` program (.pt2), checked against PyTorch, that is called as the network
    is. Batch norms are folded into the convolutions before them.

    Args:
        inputs, batch: as for `export_onnx`.

    Returns:
        The largest absolute difference of the outputs.

    Raises:
        ConvswapError: PyTorch cannot write one, or the outputs differ; then nothing is written.
        DataError: the inputs hold no tensor, or values that are not finite.
    """
    model = on_cpu(model)
    alike, others = shown(read_batch(model, inputs), batch)
    do = ONE if others else ""
    with new_file(path) as temporary, quiet():
        program = _program(model, alike[0], others)
        program.graph.eliminate_dead_code()  # such as a whole weight, of which the type is read
        _fold_batch_norms_(program)
        _forget_source_(program)
        content = io.BytesIO()  # subtle: on a full disk PyTorch's own writer ends the process
        torch.export.save(program, content)
        temporary.write_bytes(content.getvalue())
        try:
            written = torch.export.load(temporary).module()
            outputs = [each.forward(written) for each in (*alike, *others)]
        except Exception as error:  # such as a size that it does not take
            raise ConvswapError(
                f"what was written does not run: {why_not(error)}", do=do
            ) from error
        tried = zip((*alike, *others), outputs, strict=True)
        return max(largest_gap(model, each, output, do) for each, output in tried)


def _program(model: nn.Module, batch: Batch, others: Sequence[Batch]) -> ExportedProgram:
    """A program for a batch, of which the lengths are free in which others differ."""
    free = free_lengths(batch, others)
    problems = []
    # subtle: the second finds the limits that a network itself sets, such as below 64 samples
    for length in (torch.export.Dim("batch", min=1), torch.export.Dim.DYNAMIC):
        shapes = torch.export.ShapesCollection()
        for tensor, axes in zip(batch.tensors, free, strict=True):
            shapes[tensor] = dict.fromkeys(axes, length)
        try:
            with silent_streams():
                return torch.export.export(  # a copy, which keeps what it was traced with
                    shared_copy(model), batch.args, dict(batch.kwargs), dynamic_shapes=shapes
                )
        except Exception as error:  # it raises whatever it likes
            problems.append(error)
    raise ConvswapError(
        f"PyTorch cannot write a program of the network: {why_not(problems[0])}",
        do=ONE if others else "",
    ) from problems[0]


def _fold_batch_norms_(program: ExportedProgram) -> None:
    """Fold batch norms into the convolutions whose output nothing else reads, in place."""
    names = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
    for norm in program.graph.find_nodes(op="call_function", target=aten.batch_norm.default):
        conv = norm.args[0]
        packet = getattr(conv.target, "overloadpacket", None)
        if packet in _CONVOLUTIONS and len(conv.users) == 1:
            _fold_(program.state_dict, names, conv, norm)
    unused = {n for n in program.graph.find_nodes(op="placeholder") if not n.users}
    unused = {n for n in unused if names.get(n.name) in program.state_dict}
    for node in unused:
        del program.state_dict[names[node.name]]
        program.graph.erase_node(node)
    gone = {node.name for node in unused}
    specs = program.graph_signature.input_specs
    specs[:] = [spec for spec in specs if spec.arg.name not in gone]
    program.graph_module.recompile()


def _fold_(state: dict[str, Tensor], names: dict[str, str], conv: Node, norm: Node) -> None:
    """Fold one, where all its tensors are kept under names of their own."""
    _, gain, shift, mean, variance, training, _, epsilon, _ = norm.args
    weight, bias = conv.args[1], conv.args[2] if len(conv.args) > 2 else None
    carrier = bias if bias is not None else shift  # of the new bias
    read = [node for node in (weight, bias, gain, shift, mean, variance) if node is not None]
    kept = all(names.get(node.name) in state for node in read)
    if training or carrier is None or not kept or len(weight.users) > 1 or len(carrier.users) > 1:
        return

    def value(node: Node | None, otherwise: float) -> Tensor | float:
        return otherwise if node is None else state[names[node.name]].detach()

    scale = value(gain, 1.0) * (value(variance, 1.0) + epsilon).rsqrt()
    moved = value(shift, 0.0) + (value(bias, 0.0) - value(mean, 0.0)) * scale
    shaped = scale.view(-1, *[1] * (value(weight, 0.0).dim() - 1))
    state[names[weight.name]] = nn.Parameter(value(weight, 0.0) * shaped, requires_grad=False)
    state[names[carrier.name]] = nn.Parameter(moved, requires_grad=False)
    conv.args = (*conv.args[:2], carrier, *conv.args[3:])
    norm.replace_all_uses_with(conv)
    norm.graph.erase_node(norm)


def _forget_source_(program: ExportedProgram) -> None:
    """Nothing of what is written names the files, on this machine, that each operator came from."""
    for graph in program.graph_module.modules():
        for node in graph.graph.nodes if isinstance(graph, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
