"""Whether a network and the tensors of a file belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ArtifactError, ConvswapError
from ..inputs.bases import build_base, build_with_values, lacks_values
from ..network.calls import stand_in
from ..network.copies import deep_copy, in_eval_mode
from ..network.norms import fold_
from ..network.replace import install_
from ..network.state import check_finite, state_of, unkept_of
from ..network.thread_state import preserved
from ..network.wrappers import unwrapped
from ..plans import Input
from ..record import Record
from ..support.randomness import seeded
from ..support.tensors import Entry, digests

MOST = 1 << 21  # values of inputs, such as 3 x 800 x 800


def architecture(
    record: Record, entries: dict[str, Entry], model: nn.Module | None = None, where: str = ""
) -> nn.Module:
    """The structure of a converted network, which a file holds the tensors of; its parameters have
    no values yet.

    Args:
        model: the network before conversion, where it is not rebuilt by name; it is copied.
        where: to tell of the file.

    Raises:
        ArtifactError: the file holds other tensors.
        ConvswapError: there is no such network.
    """
    if model is not None:
        restored = _converted(deep_copy(unwrapped(model)), record)
        check_fit(restored, entries, where)
        return restored
    base, held = record.base, {name: entry.bytes for name, entry in entries.items()}
    skeleton = build_base(base, len(entries))
    lacking = lacks_values(base, skeleton, held)
    restored = _converted(skeleton, record)
    check_fit(restored, entries, where)  # before anything is built for real
    return _converted(build_with_values(base, len(entries)), record) if lacking else restored


def _converted(base: nn.Module, record: Record) -> nn.Module:
    for plan in record.plans:
        install_(base, plan)
    return fold_(base, record.norms)


def has_run(model: nn.Module, inputs: Sequence[Input], held: dict[str, Entry]) -> nn.Module | None:
    """A copy of a network after a run: some make layers and buffers then, and buffers of other
    sizes, which here have those that a file holds. None where it cannot run.

    Args:
        inputs: what it ran on before, as a folder says: a hostile one must not make it run on much.
    """
    if not 0 < sum(math.prod(each.shape) for each in inputs) < MOST:
        return None
    ran = in_eval_mode(deep_copy(unwrapped(model)))
    before = {name: Entry.of(buffer) for name, buffer in ran.named_buffers()}
    batch = stand_in(ran, inputs)
    try:
        with preserved(), torch.no_grad(), seeded(0):
            batch.forward(ran)
    except Exception:  # it raises whatever it likes
        return None
    for name, buffer in list(ran.named_buffers()):
        if name in held and before.get(name) != Entry.of(buffer):
            owner, attribute = place_of(ran, name)
            shape = held[name].shape
            owner.register_buffer(attribute, torch.empty(shape, dtype=buffer.dtype, device="meta"))
    return ran


def check_fit(model: nn.Module, held: dict[str, Entry], where: str) -> None:
    """Raise `ArtifactError` unless a file holds a network's tensors: all of them, no others, of
    these shapes and types, but for one floating type in the place of another throughout."""
    aliases, state = aliases_of(model), checked_state(model)
    wanted = {name: Entry.of(tensor) for name, tensor in state.items() if name not in aliases}
    held = {name: entry for name, entry in held.items() if name not in aliases}
    both = wanted.keys() & held.keys()
    casts = {name: (wanted[name].dtype, held[name].dtype) for name in both}
    floating = {pair for pair in casts.values() if pair[0].is_floating_point}
    types = {
        name
        for name, (ours, theirs) in casts.items()
        if ours != theirs and not (ours.is_floating_point and theirs.is_floating_point)
    }
    if len(floating) > len({ours for ours, _ in floating}):
        usual = max(floating, key=list(casts.values()).count)
        types |= {name for name, pair in casts.items() if pair in floating - {usual}}
    for names, what in (
        (wanted.keys() - held.keys(), "missing"),
        (held.keys() - wanted.keys(), "unknown"),
        ({name for name in both if wanted[name].shape != held[name].shape}, "of another shape"),
        (types, "of another type"),
    ):
        if names:
            raise ArtifactError(
                f"{len(names)} tensors are {what}, such as {min(names)}", where=where or None
            )


def check_digests(state: dict[str, Tensor], wanted: dict[str, str], where: str) -> None:
    found = digests(state)
    changed = [name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)]
    if changed:
        raise ArtifactError(
            f"{len(changed)} tensors are not what was written, such as {min(changed)}", where=where
        )


def check_values(model: nn.Module, where: str) -> None:
    try:
        check_finite(model)
    except ConvswapError as error:
        raise ArtifactError(str(error), where=where) from None


def checked_state(model: nn.Module) -> dict[str, Tensor]:
    """All tensors of a network; raises `ArtifactError` unless they could be loaded again."""
    state = state_of(model)
    if odd := unkept_of(model):
        raise ArtifactError(f"{odd[0]} of the network is no tensor: it cannot be kept in a file")
    own = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    wrong = [name for name in state if not _is_there(model, name)] or sorted(own - state.keys())
    if wrong:
        raise ArtifactError(
            f"{type(model).__name__} keeps {wrong[0]} under another name, or not at all: it could "
            "not be loaded again",
            do="name tensors as PyTorch does",
        )
    return state


def aliases_of(model: nn.Module) -> dict[str, str]:
    """Names of parameters and buffers that are the same as one named before -> that name."""
    first: dict[int, str] = {}
    same = {}
    for name in checked_state(model):
        owner, attribute = place_of(model, name)
        kept = first.setdefault(id(getattr(owner, attribute, name)), name)  # or an extra state
        if kept != name:
            same[name] = kept
    return same


def place_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module a tensor belongs to, and its name there."""
    owner, _, attribute = name.rpartition(".")
    return model.get_submodule(owner), attribute


def _is_there(model: nn.Module, name: str) -> bool:
    try:
        owner, attribute = place_of(model, name)
    except AttributeError:
        return False
    return hasattr(owner, attribute) or attribute == "_extra_state"
