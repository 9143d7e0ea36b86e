"""What of a batch is passed to a network: the one place that guesses."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import dropwhile, pairwise, takewhile
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..support.loaded import loaded
from .batch import Batch
from .samples import is_list_of_samples, is_ragged, layout_of

LABELS = ("label", "labels", "target", "targets", "y")  # keys that are not passed on
IMAGES = ("image", "images", "pixel_values", "input", "inputs", "x", "img", "data")
_OF_DETECTORS = "torchvision.models.detection.transform:GeneralizedRCNNTransform"
WHOLE = ("batch", "sample", "data_dict", "input_dict")  # in the name of an argument that is all


def guessed(model: nn.Module, batch: object) -> Batch:
    """Inputs and labels of a batch; how much is input follows from the arguments of `forward`."""
    found, parameters = _in_order(model, batch), _parameters(model).values()
    by_name = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    named = [name for name in by_name if name not in found.kwargs]
    by_place = any(p.kind <= inspect.Parameter.VAR_POSITIONAL for p in parameters)
    if by_place or len(named) < len(found.args):
        return found
    kwargs = dict(found.kwargs) | dict(zip(named, found.args, strict=False))
    return replace(found, args=(), kwargs=kwargs)


def _in_order(model: nn.Module, batch: object) -> Batch:
    """The same, with inputs that have no names in the order of the arguments."""
    said, required = _takes_a_list(model), len(_required(model))
    if isinstance(batch, (Tensor, PackedSequence)) or (said and is_list_of_samples(batch, said)):
        return Batch((batch,))
    if isinstance(batch, Mapping):
        return _from_mapping(model, batch)
    if not isinstance(batch, (tuple, list)) or not batch:
        return Batch((batch,))
    if required <= 1:
        batch = _without_names(batch)
    if required == 1 and (parts := _parts_of_first(model)):
        if isinstance(batch[0], (tuple, list)) and len(batch[0]) == parts:
            return Batch((batch[0],), labels=_labels(batch[1:]))
        if len(batch) == parts:
            return Batch((batch,))
    if isinstance(batch, list) and all(isinstance(sample, Mapping) for sample in batch):
        return Batch((batch,))
    if required <= 1 and _is_ragged(model, batch):
        return Batch((batch,))
    inputs = batch[: max(1, required, _parts_of_rest(model, batch))]
    if all(is_list_of_samples(each, said) for each in inputs) and len({*map(len, inputs)}) == 1:
        return Batch(tuple(map(list, inputs)), labels=_labels(batch[len(inputs) :]))
    if required <= 1 and (maps := _maps_in(batch, said)) is not None:
        return Batch((maps,), labels=None if maps is batch else _labels(batch[1:]))
    if (
        said
        and isinstance(batch[0], (tuple, list))
        and all(isinstance(each, Tensor) for each in batch[0])
    ):
        return Batch((batch[0],), labels=_labels(batch[1:]))
    if isinstance(batch[0], (Mapping, tuple, list)):
        return replace(_in_order(model, batch[0]), labels=_labels(batch[1:]))
    wanted, rest = len(inputs), batch[len(inputs) :]
    more = [name for name, parameter in _parameters(model).items() if _is_optional_input(parameter)]
    more = more[max(wanted - required, 0) :]  # subtle: the first may be optional too
    unused = [name for name, value in zip(more, rest, strict=False) if _is_no_label(value)]
    return Batch(tuple(inputs), labels=_labels(rest), unused=tuple(unused))


def laid_out(model: nn.Module, batch: Batch) -> Batch:
    """A batch that knows where its samples lie in what is passed."""
    names = () if batch.call else tuple(_parameters(model))
    layout = layout_of(batch.args, batch.kwargs, names, said=_takes_a_list(model))
    return replace(batch, layout=layout)


def _is_ragged(model: nn.Module, batch: Sequence[object]) -> bool:
    """Whether a batch is the samples themselves, of several lengths."""
    tensors = all(isinstance(value, Tensor) for value in batch)
    return tensors and is_ragged(batch) and not any("offset" in n for n in _parameters(model))


def _maps_in(batch: Sequence[object], said: bool) -> Sequence[Tensor] | None:
    """The maps `[n, channels, ...]` that a batch is, or that it begins with: views of the same
    images, where the network has `said` that it takes a list; those of a pyramid, each smaller than
    the one before (three at least, if they are all: an image and a map may be input and target), or
    of several sizes, falling or rising."""
    for maps, least in ((batch, 2 if said else 3), (batch[0], 2)):
        if not isinstance(maps, (tuple, list)) or len(maps) < least:
            continue
        if all(isinstance(each, Tensor) and each.dim() >= 4 for each in maps):
            sizes = [each.shape[2:].numel() for each in maps]
            views = said and len({*map(len, maps)}) == 1
            rising = maps is not batch and all(small < large for small, large in pairwise(sizes))
            if views or rising or all(large > small for large, small in pairwise(sizes)):
                return maps
    return None


def _from_mapping(model: nn.Module, batch: Mapping[str, Any]) -> Batch:
    parameters, required = _parameters(model), _required(model)
    others = [key for key in batch if key in LABELS and key not in required]
    labels = _labels([batch[key] for key in others])
    taken = [key for key in batch if key in parameters and (key in required or key not in LABELS)]
    if "y" in parameters and _is_no_label(batch.get("y")):
        taken.append("y")  # in many networks it is a second input
    missing = [name for name in required if name not in taken]
    images = [key for key in batch if key not in LABELS and _is_image(batch[key])]
    free = [key for key in dict.fromkeys((*IMAGES, *images)) if key in images and key not in taken]
    several = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if several and not missing and (taken or len(parameters) == 1):
        taken += free
        free = []
    known = {key: batch[key] for key in taken}
    if known and not missing:
        first = [key for key in parameters if key in known and _is_unnamed(parameters[key])]
        args = tuple(known.pop(key) for key in first)
        return Batch(args, known, labels)
    if len(missing) == 1 and (
        _is_whole(missing[0], parameters[missing[0]]) or _parts_of_first(model) == 0
    ):
        return Batch((batch,), labels=labels)
    image, rest = (batch[free[0]], free[1:]) if free else (None, [])
    known = known if len(missing) == 1 else {}
    return Batch((image,), known, labels, unused=tuple(rest) if several else ())


def _is_image(value: object) -> bool:
    return isinstance(value, Tensor) or (is_list_of_samples(value) and isinstance(value[0], Tensor))


def _is_whole(name: str, parameter: inspect.Parameter) -> bool:
    """Whether an argument is a whole batch as it comes."""
    said = str(parameter.annotation).lower()
    return any(word in said for word in ("dict", "mapping")) or any(word in name for word in WHOLE)


def _parts_of_first(model: nn.Module) -> int | None:
    """Into how many parts `forward` takes its first argument; 0: it asks for parts by name; None:
    it does not take it apart, or nobody knows."""
    name = next(iter(_parameters(model)), "")
    for node in ast.walk(_code_of(model)):
        match node:
            case ast.Subscript(value=ast.Name(id=taken), slice=ast.Constant(value=str())):
                parts = 0
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Name(id=taken)):
                parts = len(names)
            case _:
                continue
        if taken == name:
            return parts
    return None


def _parts_of_rest(model: nn.Module, batch: Sequence[object]) -> int:
    """How many `forward(*inputs)` takes of a batch, by number or all at once; where it goes through
    them, those that are like the first; else 0."""
    name, first = next(iter(_parameters(model).items()), ("", None))
    if first is None or first.kind is not inspect.Parameter.VAR_POSITIONAL:
        return 0
    if _goes_through(name, _code_of(model)):
        return len([*takewhile(lambda value: _is_like(value, batch[0]), batch)])
    code = [*ast.walk(_code_of(model))]
    taken = [
        node.slice.value + 1
        for node in code
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)
        and isinstance(node.value, ast.Name) and node.value.id == name
        and isinstance(node.slice.value, int)
    ]  # fmt: skip
    return max([*taken, _parts_of_first(model) or 0])


def _without_names(batch: Sequence[object]) -> Sequence[object]:
    """A batch without the names of its images, where they stand first."""
    rest = tuple(dropwhile(_are_words, batch))
    return rest if len(rest) < len(batch) and any(map(_is_no_label, rest)) else batch


def _are_words(value: object) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(each, str) for each in value)


def _is_like(value: object, first: object) -> bool:
    """Whether both are tensors of one type, with as many axes."""
    both = isinstance(value, Tensor) and isinstance(first, Tensor)
    return both and (value.dtype, value.dim()) == (first.dtype, first.dim())


def _goes_through(name: str, code: ast.AST) -> bool:
    """Whether code iterates over a variable, by itself, numbered or beside others."""
    loops = [n.iter for n in ast.walk(code) if isinstance(n, (ast.For, ast.comprehension))]
    for each in [*loops]:
        match each:
            case ast.Call(func=ast.Name(id="enumerate" | "zip"), args=args):
                loops += args
    return any(isinstance(each, ast.Name) and each.id == name for each in loops)


def _code_of(model: nn.Module) -> ast.AST:
    """The code of `forward`; empty, where it is in no file."""
    return _parsed(getattr(model.forward, "__func__", model.forward))


@lru_cache
def _parsed(function: Callable) -> ast.AST:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return ast.Module([], [])


def _is_unnamed(parameter: inspect.Parameter) -> bool:
    return parameter.kind is inspect.Parameter.POSITIONAL_ONLY


def _is_optional_input(parameter: inspect.Parameter) -> bool:
    """Whether an argument may be a further input."""
    return (
        parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        and parameter.default is None
        and (parameter.name == "y" or parameter.name not in LABELS)  # a second input in many
    )


def _is_no_label(value: object) -> bool:
    """Whether it cannot be class numbers."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(model.forward).parameters
    except (TypeError, ValueError):  # of compiled code
        return {}


def _required(model: nn.Module) -> list[str]:
    return [
        name
        for name, parameter in _parameters(model).items()
        if parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        and parameter.default is inspect.Parameter.empty
    ]


def _takes_a_list(model: nn.Module) -> bool:
    """Whether `forward` says that its input is a list, or goes through it one by one, or the
    network is one of torchvision's detectors, not all of which say it."""
    if isinstance(getattr(model, "transform", None), loaded(_OF_DETECTORS)):
        return True
    name, first = next(iter(_parameters(model).items()), ("", None))
    if first is None or first.kind is inspect.Parameter.VAR_POSITIONAL:
        return False
    return "list[" in str(first.annotation).lower() or _goes_through(name, _code_of(model))


def _labels(rest: Iterable[object]) -> Tensor | None:
    """The first of what is left of a batch that can be class numbers."""
    for value in rest:
        if isinstance(value, Tensor) and value.dim() == 1 and not value.is_floating_point():
            return value
    return None
