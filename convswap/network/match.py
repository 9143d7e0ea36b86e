"""What of a network's output is compared: all of it, or what the caller picks; and where its
number or shape varies from image to image (what a detector finds), or that are no floating-point
numbers (the classes of pixels, words), what its parts put out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .calls import Batch

Pick = Callable[[Any], object]
"""Takes what is to be compared out of an output: `lambda output: output["logits"]`."""


@dataclass(frozen=True)
class Match:
    """What is compared.

    Attributes:
        pick: what the caller takes out of the output.
        parts: paths of modules whose outputs are compared in place of the network's.
    """

    pick: Pick | None = None
    parts: tuple[str, ...] = ()

    def of(self, network: nn.Module, run: Callable[[], object]) -> object:
        """What is compared of a network that `run` runs."""
        with _written([network.get_submodule(path) for path in self.parts]) as written:
            output = run()
        if self.pick:
            return self.pick(output)
        return [made for _, made in written] if self.parts else output


@torch.no_grad()
def find_match(model: nn.Module, batch: Batch) -> Match:
    """Parts, if outputs vary or hold no floating-point numbers, else the whole output.

    The parts are the outermost modules that put out a row for each sample, of a shape that does
    not depend on values: of torchvision's detectors backbone and heads.

    Args:
        model: in eval mode.
        batch: on its device.

    Raises:
        Exception: of the network's own code, which may not run on some of the samples.
    """
    one, last = batch.take(slice(0, 1)), batch.take(slice(len(batch) - 1, None))
    alike = [t.shape for t in last.tensors] == [t.shape for t in one.tensors]
    first, *others = [_shapes(sample.forward(model)) for sample in (one, *[last] * alike)]
    together = _shapes(batch.take(slice(0, 2)).forward(model))
    with suppress(Exception), _noise_for_words(model):  # some look at what makes sense only
        others.append(_shapes(one.noise().forward(model)))
    steady = all(other == first for other in others) and len(together) == len(first)
    if steady and first and all(map(_full, first)):
        return Match()
    return Match(parts=tuple(_steady(model, one)))


def tensors(output: object) -> list[Tensor]:
    """The floating-point tensors of any tree of outputs, in order: tuples, lists, mappings,
    dataclasses in one another; where these hold none, what other objects in them keep. Complex ones
    count as real ones with two numbers for each."""
    return [*_tensors(output, _plain_parts)] or [*_tensors(output, partial(_parts, seen=set()))]


def _tensors(output: object, parts_of: Callable[[object], Iterable[object]]) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.is_complex():
            yield torch.view_as_real(output.resolve_conj())
        elif output.is_floating_point():
            yield output if output.layout == torch.strided else output.to_dense()
        return
    for part in parts_of(output):
        yield from _tensors(part, parts_of)


def _plain_parts(output: object) -> Iterable[object]:
    if isinstance(output, Mapping):
        return output.values()
    if isinstance(output, (tuple, list)):
        return output
    if is_dataclass(output) and not isinstance(output, type):
        return [getattr(output, field.name) for field in fields(output)]
    return ()


def _parts(output: object, seen: set[int]) -> Iterable[object]:
    """What an output of any class keeps; nothing, where it was `seen`."""
    if isinstance(output, (type, nn.Module)) or callable(output) or id(output) in seen:
        return ()
    if plain := _plain_parts(output):
        return plain
    seen.add(id(output))
    slots = [name for kind in type(output).__mro__ for name in getattr(kind, "__slots__", ())]
    kept = [getattr(output, name, None) for name in slots]
    kept += getattr(output, "__dict__", {}).values()
    return {id(value): value for value in kept}.values()


def _shapes(output: object) -> list[torch.Size]:
    return [tensor.shape for tensor in tensors(output)]


def _full(shape: torch.Size) -> bool:
    return shape.numel() > 0


def _steady(model: nn.Module, one: Batch) -> Iterator[str]:
    """Paths of the outermost modules whose outputs are rows of one shape."""
    seen: list[dict[nn.Module, list[torch.Size]]] = []
    modules = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    for batch, disturbed in ((one, nullcontext()), (one.noise(), _noise_for_words(model))):
        with disturbed, _written(modules) as written:
            batch.forward(model)
        seen.append({})
        for module, made in written:
            seen[-1].setdefault(module, []).extend(_shapes(made))

    def is_steady(module: nn.Module) -> bool:
        here, there = (shapes.get(module) for shapes in seen)
        return bool(here) and here == there and all(s[:1] == (1,) and _full(s) for s in here)

    def search(module: nn.Module, prefix: str) -> Iterator[str]:
        for name, child in module.named_children():
            if is_steady(child):
                yield prefix + name
            else:
                yield from search(child, f"{prefix}{name}.")

    return search(model, "")


@contextmanager
def _noise_for_words(model: nn.Module) -> Iterator[None]:
    """Embeddings are noise inside: there is none of whole numbers."""

    def disturb(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        random = torch.Generator().manual_seed(0)
        return (torch.randn(output.shape, generator=random) * output.std()).to(output)

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                stack.callback(module.register_forward_hook(disturb).remove)
        yield


@contextmanager
def _written(modules: Sequence[nn.Module]) -> Iterator[list[tuple[nn.Module, list[Tensor]]]]:
    """What modules put out while something runs inside, in order of execution."""
    written: list[tuple[nn.Module, list[Tensor]]] = []

    def keep(module: nn.Module, args: tuple, output: object) -> None:
        # subtle: cloned, for an in-place operation may follow
        written.append((module, [tensor.clone() for tensor in tensors(output)]))

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(keep).remove)
        yield written
