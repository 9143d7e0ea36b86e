"""Weights as people have them: state dicts in any wrapping, in one file or in a folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import accumulate, takewhile
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..network.copies import first_line
from ..network.state import of_today
from ..support.progress import Note, unheard
from .composed import composed
from .misfits import misfits_of, what_to_do
from .renamed import renamed, with_shared_
from .weight_files import read_weights, weight_files

AVERAGED = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "params_ema", "ema",
    "swa_state_dict",
)  # fmt: skip
LIKE_AVERAGED = re.compile(r"(?i)(.*[_.])?(ema|swa|averaged?)([_.].*)?")  # g_ema, swa_model
TRAINED = ("state_dict", "model_state_dict", "model", "params", "network", "net", "weights")
# in what is found under those names
WRAPPERS = ("module", "model", "state_dict", "shadow_params", "shadow")
COUNTERS = ("n_averaged", "steps")  # beside averaged weights, of PyTorch and of mmengine
PROFILED = re.compile(r"(.*\.)?total_(ops|params)")  # buffers that thop leaves in every module
INSIDE = (  # names, of any submodule: what torch.compile, checkpointing and FSDP add
    "_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module."
)  # fmt: skip


def load_weights_(
    model: nn.Module, path: Path, *, averaged: bool = True, note: Note = unheard
) -> Mapping:
    """Load weights into a network, strictly, in place; they are cast to its types.

    A prefix that all names have in common, such as `module.` or `_orig_mod.model.`, is left out
    where the names fit without it.

    Args:
        path: a safetensors file, a checkpoint that `torch.load(weights_only=True)` opens, or a
            folder of such, in one file or in shards with an index.
        averaged: whether averaged weights (EMA) are taken where there are any.
        note: told what was taken, if there was a choice.

    Returns:
        The arguments of the script that trained them, where the file holds these as `args`.

    Raises:
        ModelError: the weights cannot be read, or do not fit.
    """
    content = {}
    for file in weight_files(path, note):
        content |= read_weights(file)
    wanted = model.state_dict()
    buffers = {name for name, _ in model.named_buffers()}
    state = _state_dict(content, wanted, buffers, path, averaged, note)
    if kinds := composed(state, wanted)[1]:
        note(f"{path}: parts of {' and '.join(kinds)} in it are put together to weights")
    state = _fitted(state, wanted, path)
    state = _one_of_several(state, wanted, path, averaged, note)
    state = _completed(state, model)
    if misfits_of(state, wanted).keys() & {"missing", "unknown"}:
        for how, other in renamed(state, model):
            if not misfits_of(other := _completed(other, model), wanted):
                note(f"{path}: some names in it are not {type(model).__name__}'s: read {how}")
                state = other
                break
    if misfits := misfits_of(state, wanted):
        raise ModelError(
            f"weights do not fit {type(model).__name__}: "
            + ", ".join(
                f"{len(names)} {what} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"
                for what, names in misfits.items()
            ),
            where=str(path),
            do=what_to_do(misfits, state, model),
        )
    try:
        model.load_state_dict(of_today(state, model))
    except Exception as error:  # networks may read weights with code of their own
        raise ModelError(
            f"{type(model).__name__} does not take the weights: {first_line(error)}",
            where=str(path),
        ) from error
    said = content.get("args")
    return said if isinstance(said, Mapping) else {}


def _completed(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict with what files need not hold."""
    whole = dict(state)
    with_shared_(whole, model)
    for name, tensor in model.state_dict().items():  # written by PyTorch before 0.4.1
        if name.endswith("num_batches_tracked"):
            whole.setdefault(name, tensor)
    return whole


def _state_dict(
    content: Mapping,
    wanted: Mapping[str, Tensor],
    buffers: Set[str],
    path: Path,
    averaged: bool,
    note: Note,
) -> Mapping[str, Tensor]:
    """The state dict in a checkpoint; where only parameters were averaged, with the buffers of the
    others."""
    averages, trained = (
        {name: state for name in names if (state := _unwrapped(content.get(name))) is not None}
        for names in (AVERAGED, TRAINED)
    )
    averages |= {
        name: state
        for name, entry in _with_callbacks(content)
        if isinstance(name, str) and LIKE_AVERAGED.fullmatch(name)
        if (state := _unwrapped(entry)) and _fits(state, wanted, path)
    }
    swapped = _unwrapped(content.get("current_model_state"))  # of Lightning
    if "steps" in averages.get("ema_state_dict", ()):  # of mmengine
        swapped = averages.pop("ema_state_dict")
    if swapped and "state_dict" in trained:
        # subtle: they swap the two as they save, for those who know of no averages
        averages["state_dict"] = trained.pop("state_dict")
        trained["swapped"] = swapped
    order = averages | trained if averaged else trained | averages
    name, state = next(iter(order.items()), (None, content))
    if averaged and name in averages:
        others = "--no-ema, in Python averaged=False, takes the others"
        note(f"{path}: averaged weights are taken ({name}; {others})")
    elif averaged and (nameless := [n for n in AVERAGED if _has_no_names(content.get(n))]):
        note(f"{path}: averaged weights are passed over, for they have no names ({nameless[0]})")
    others = {key: each for key, each in content.items() if key not in averages and key != name}
    if averaged and name in trained and (beside := dict(_fitting(others, wanted, path))):
        note(f"{path}: the weights in {name} are taken; it has others: {', '.join(beside)}")
    unknown = name is None or (name in averages and not averaged)
    if unknown and not all(isinstance(value, Tensor) for value in content.values()):
        fitting = dict(_fitting(others, wanted, path))
        if len(fitting) > 1:
            raise ModelError(
                f"{path} holds several that fit: {', '.join(fitting)}",
                do="save one of them as safetensors",
            )
        if fitting:
            [(place, state)] = fitting.items()
            note(f"{path}: the weights in {place} are taken")
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        there = ", ".join(map(str, [*content][:3])) + (", ..." if len(content) > 3 else "")
        raise ModelError(f"no state_dict in {path}: it holds {there or 'nothing'}")
    for key, tensor in state.items():
        if not isinstance(key, str):
            raise ModelError(f"the names of tensors must be words, not {key!r}", where=str(path))
        if kind := _odd(tensor):
            raise ModelError(f"{key} is {kind}: only dense tensors are read", where=str(path))
    if name in averages and trained:
        beside = _fitted(next(iter(trained.values())), wanted, path)
        whole = {key: beside[key] for key in buffers & beside.keys()}
        whole |= _fitted(state, wanted, path)
        return whole if _needed(wanted) <= whole.keys() else state
    return state


def _with_callbacks(content: Mapping) -> Iterator[tuple[object, object]]:
    """The entries of a checkpoint, and those of the callbacks that Lightning keeps in it."""
    yield from content.items()
    callbacks = content.get("callbacks")
    for callback, state in callbacks.items() if isinstance(callbacks, Mapping) else ():
        for name, entry in state.items() if isinstance(state, Mapping) else ():
            yield f"callbacks.{callback}.{name}", entry


def _unwrapped(content: object, deepest: int = 100) -> Mapping | None:
    """What may be a state dict inside one entry of a checkpoint, which may hold itself."""
    if not isinstance(content, Mapping) or not deepest:
        return None
    inner = [content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)]
    if inner:
        return _unwrapped(inner[0], deepest - 1)
    return content if any(isinstance(value, Tensor) for value in content.values()) else None


def _fitting(
    content: object, wanted: Mapping[str, Tensor], path: Path, within: str = "", deepest: int = 4
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """What is in a checkpoint under names that nobody knows, if it has all that a network wants;
    numbers kept among it are left out."""
    if isinstance(content, (list, tuple)):
        content = dict(enumerate(content[:9]))
    if not isinstance(content, Mapping) or not deepest:
        return
    state = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if _fits(state, wanted, path):
        yield within or "its first level", state
    for key, value in content.items():
        if not isinstance(value, Tensor):
            name = f"{within}.{key}" if within else str(key)
            yield from _fitting(value, wanted, path, name, deepest - 1)


def _fits(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> bool:
    """Whether a state dict has all that a network wants."""
    return bool(state) and _needed(wanted) <= _fitted(state, wanted, path).keys()


def _needed(wanted: Iterable[str]) -> set[str]:
    """The names of what a network cannot do without."""
    return {name for name in wanted if not name.endswith("num_batches_tracked")}


def _one_of_several(
    state: dict[str, Tensor], wanted: Mapping[str, Tensor], path: Path, averaged: bool, note: Note
) -> dict[str, Tensor]:
    """What of a state dict lies below the prefix that all of a network is found under, where it
    holds other things beside: averages, losses and metrics, two networks that learn together."""
    needed = _needed(wanted)
    if not needed or needed <= state.keys():
        return state
    first = min(needed)
    prefixes = [
        prefix
        for name in state
        if name.endswith(f".{first}")
        for prefix in [name.removesuffix(first)]
        if all(prefix + n in state and state[prefix + n].shape == wanted[n].shape for n in needed)
    ]
    if len(prefixes) > 1:
        averages = [prefix for prefix in prefixes if LIKE_AVERAGED.fullmatch(prefix[:-1])]
        alike = averages if averaged else [p for p in prefixes if p not in averages]
        if len(alike) != 1:
            raise ModelError(
                f"{path} holds several that fit: {', '.join(prefixes)}",
                do="save one of them as safetensors",
            )
        prefixes = alike
    if not prefixes:
        return state
    [prefix] = prefixes
    own = {name[len(prefix) :]: each for name, each in state.items() if name.startswith(prefix)}
    left = {name for name in state if not name.startswith(prefix)}
    theirs = any(LIKE_AVERAGED.fullmatch(name.partition(".")[0]) for name in left)
    which = ", averaged weights of other names among them" if averaged and theirs else ""
    note(f"{path}: the weights below {prefix} are taken, {len(left)} others left out{which}")
    return own


def _has_no_names(content: object, deepest: int = 2) -> bool:
    """Whether it is a list of tensors, or holds one, as torch_ema writes it."""
    if isinstance(content, Mapping):
        return deepest > 0 and any(_has_no_names(v, deepest - 1) for v in content.values())
    return isinstance(content, list) and bool(content) and isinstance(content[0], Tensor)


def _odd(tensor: Tensor) -> str | None:
    if tensor.is_meta:
        return "without values"
    if tensor.is_quantized:
        return "quantised"
    if tensor.layout != torch.strided or tensor.is_nested:
        return "sparse"
    return "complex" if tensor.is_complex() else None


def _fitted(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """A state dict of whole weights, without the prefix, common to all names, that most names fit
    without."""
    named: dict[str, Tensor] = {}
    for key, tensor in composed(state, wanted)[0].items():
        if key not in wanted and (key in COUNTERS or PROFILED.fullmatch(key)):
            continue
        name = key
        for part in INSIDE:
            name = name.replace(part, "")
        if name in named:
            raise ModelError(f"two tensors are named {name}", where=str(path))
        named[name] = tensor
    parts = [name.split(".")[:-1] for name in named]
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    prefixes = [*accumulate((f"{level[0]}." for level in levels), initial="")]
    best = max(prefixes, key=lambda p: sum(name[len(p) :] in wanted for name in named))
    return {name[len(best) :]: tensor for name, tensor in named.items()}
