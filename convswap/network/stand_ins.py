"""Which convolutions a network's own code cannot do without: each is replaced by a stand-in that
computes the same and is no `nn.Conv2d`, and the network has to run as before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property

from torch import nn

from ..forms import become_, in_a_row
from .calls import Batch
from .copies import deep_copy, failure, first_line
from .functions import rebind_
from .watch import Watcher, watch


def what_breaks(
    network: nn.Module, example: Batch, paths: Sequence[str], before: Watcher
) -> dict[str, str]:
    """By path, what goes wrong where a convolution is replaced; empty if nothing does.

    Args:
        network: a copy that runs on `example`; it is not changed.
        paths: of the convolutions.
        before: what was seen of the network as it is.

    Raises:
        ModelError: the network does not run twice.
    """
    if not paths or _problem(network, example, paths, before) is None:
        return {}
    try:  # subtle: what a network keeps from its first pass, such as anchors, changes the next
        before = watch(deep_copy(network), example, before.paths)
    except Exception as error:  # of the network's own code
        raise failure(network, example, error) from error
    return _search(network, example, paths, before)


def _search(
    network: nn.Module, example: Batch, paths: Sequence[str], before: Watcher
) -> dict[str, str]:
    problem = _problem(network, example, paths, before)
    if problem is None:
        return {}
    if len(paths) == 1:
        return {paths[0]: problem}
    middle = len(paths) // 2
    halves = [_search(network, example, half, before) for half in (paths[:middle], paths[middle:])]
    # where both halves run by themselves, it is the two together that do not
    return halves[0] | halves[1] or dict.fromkeys(paths, problem)


def _problem(
    network: nn.Module, example: Batch, paths: Sequence[str], before: Watcher
) -> str | None:
    """What goes wrong where all these convolutions are replaced."""
    try:
        after = watch(with_stand_ins(network, paths), example, before.paths)
    except Exception as error:
        return f"forward fails without it: {first_line(error)}"
    if read := sorted(path for path in paths if path in after.read):
        return f"forward reads its weight: {read[0]}"
    if after.trail != before.trail or after.calls != before.calls:
        return "forward goes another way where it is no nn.Conv2d"
    return None


def with_stand_ins(network: nn.Module, paths: Sequence[str]) -> nn.Module:
    """A copy of a network with stand-ins for the convolutions at some paths."""
    changed = deep_copy(network)
    for path in paths:
        conv = changed.get_submodule(path)
        itself = type(conv).__new__(type(conv))  # subtle: copy.copy refuses parametrised modules
        itself.__dict__ = dict(vars(conv))
        rebind_(itself, {id(conv): itself})  # subtle: a forward put in its place may call its own
        become_(conv, in_a_row(OrderedDict(itself=itself), conv))
    for module in changed.modules():  # what is found once and kept, it finds anew once loaded
        for name in [*vars(module)]:
            if isinstance(getattr(type(module), name, None), cached_property):
                del vars(module)[name]
    return changed
