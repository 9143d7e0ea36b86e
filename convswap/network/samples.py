"""Where the samples of a batch lie in what is passed, to take some of them: in rows of tensors, as
a rule; in lists, where they differ in size; in rows that are padded to the longest; one after
another in one long row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .trees import Path, map_tensors, paths_in, tensors_in


@dataclass(frozen=True)
class Layout:
    """Paths of what tells it, within what is passed.

    Attributes:
        lists: hold one value for each sample.
        lengths: `[n]`, how much of each sample's row is no padding.
        starts: `[n]`, where each sample begins, or `[n + 1]` with the end of the last.
        trims: whether padding is taken off that no sample needs which is taken.
        whole: whether the samples cannot be told apart: all there is counts as one.
    """

    lists: tuple[Path, ...] = ()
    lengths: tuple[Path, ...] = ()
    starts: tuple[Path, ...] = ()
    trims: bool = False
    whole: bool = False

    def count(self, tree: object) -> int | None:
        """How many samples there are; None: as many as tensors have rows."""
        if self.whole:
            return 1
        values = dict(paths_in(tree))
        if self.lists:
            return len(values[self.lists[0]])
        return len(_bounds(tree, values[self.starts[0]])) - 1 if self.starts else None

    def taken(self, tree: object, some: slice | Sequence[int], count: int) -> object:
        """What is passed for some of `count` samples."""
        if self.whole:
            return tree
        values = dict(paths_in(tree))
        rows = list(range(count)[some] if isinstance(some, slice) else some)
        trimmed = self.lengths if self.trims else ()
        longest = {_longest(values[path]): _longest(values[path][rows]) for path in trimmed}
        special = dict.fromkeys(self.lists, lambda value: [value[row] for row in rows])
        stretches: dict[int, Tensor] = {}
        for path in self.starts:
            bounds = _bounds(tree, values[path])
            special[path], stretches[bounds[-1]] = _moved(bounds, rows, len(values[path]))

        def change(tensor: Tensor) -> Tensor:
            if tensor.dim() and len(tensor) in stretches:
                return tensor[stretches[len(tensor)].to(tensor.device)]
            if not tensor.dim() or len(tensor) != count:
                return tensor
            if tensor.layout != torch.strided:
                return tensor.index_select(0, torch.tensor(rows, device=tensor.device))
            tensor = tensor[some]
            for axis, length in enumerate(tensor.shape):
                if axis and length in longest:
                    return tensor.narrow(axis, 0, longest[length])
            return tensor

        return map_tensors(tree, change, special)

    def shortest(self, tree: object) -> int:
        """Which sample is mostly padding; the first, where it is not told."""
        values = dict(paths_in(tree))
        return min((int(values[path].argmin()) for path in self.lengths), default=0)


def layout_of(
    args: tuple, kwargs: Mapping[str, object], names: Sequence[str], said: bool
) -> Layout:
    """How samples lie in `(args, kwargs)`, what is passed.

    Args:
        names: of the network's arguments.
        said: whether the first of them is said to be a list.
    """
    tree = (args, kwargs)
    values = {path: value for path, value in paths_in(tree) if len(path) > 1}
    first = next(iter(values), None)
    lists = {
        path: value
        for path, value in values.items()
        if is_list_of_samples(value, said and path == first)
        and (path == first or not _is_map(value[0]) or is_ragged(value))
    }

    def name(path: Path) -> str:
        last = path[-1]
        said = isinstance(last, str) or len(path) > 2 or last >= len(names)
        return str(last if said else names[last]).lower()

    inside = {id(tensor) for value in lists.values() for tensor in tensors_in(value)}
    rows = {len(t) for t in tensors_in(tree) if t.dim() and id(t) not in inside}
    sizes = [len(value) for value in lists.values() if not rows or len(value) in rows]
    numbers = {path: value for path, value in values.items() if _is_whole_row(value)}
    return Layout(
        tuple(path for path, value in lists.items() if sizes and len(value) == sizes[0]),
        tuple(path for path in numbers if "len" in name(path)),
        tuple(path for path, value in numbers.items()
              if "offset" in name(path) and not value[0] and (value.diff() >= 0).all()),
    )  # fmt: skip


def is_list_of_samples(value: object, said: bool = False) -> bool:
    """Whether a value is a list of images `[channels, height, width]` or of mappings, one for each,
    as detectors take them, of texts, or of tensors of several lengths; of rows of numbers, where
    the network has `said` that it takes a list."""
    if not isinstance(value, (tuple, list)) or not value:
        return False
    if all(isinstance(sample, (Mapping, str)) for sample in value):
        return True
    return all(isinstance(t, Tensor) for t in value) and (
        all(map(_is_map, value)) or is_ragged(value) or (said and all(t.dim() == 1 for t in value))
    )


def is_ragged(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors are of one kind, but of several lengths."""
    kinds = {(tensor.dim(), tensor.dtype) for tensor in tensors}
    return len(kinds) == 1 and tensors[0].dim() > 0 and len({*map(len, tensors)}) > 1


def _is_map(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() == 3


def _is_whole_row(value: object) -> bool:
    whole = isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()
    return whole and value.dim() == 1 and len(value) > 0 and not value.is_meta


def _longest(lengths: Tensor) -> int:
    return int(lengths.max()) if len(lengths) else 0


def _bounds(tree: object, starts: Tensor) -> list[int]:
    """Where the samples begin, and where the last ends."""
    bounds = starts.tolist()
    totals = [len(t) for t in tensors_in(tree) if t.dim() and t is not starts]
    total = next((n for n in totals if n >= bounds[-1] and n != len(bounds)), len(bounds))
    return bounds if len(bounds) > 1 and bounds[-1] == total else [*bounds, total]


def _moved(
    bounds: Sequence[int], rows: Sequence[int], given: int
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """How bounds become those of some samples, and the positions of these."""
    stretches = [range(*list(pairwise(bounds))[row]) for row in rows]
    moved = torch.tensor([0, *map(len, stretches)]).cumsum(0)
    kept = moved if given == len(bounds) else moved[:-1]
    positions = torch.tensor([at for stretch in stretches for at in stretch], dtype=torch.long)
    return kept.to, positions
