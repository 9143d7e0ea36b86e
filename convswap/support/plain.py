"""Plain data: numbers, words, and lists and mappings of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

DEPTH, VALUES = 8, 256  # most that anybody needs to say
MOST_VALUES = 1 << 17  # of a document, each of which may be wrong: what says so takes 1 KB
_NESTED = re.compile(r"(?:[\[{]\s*){100}")
_FOLDERS = re.compile(r"""(?<![\w./:])(?:/[^\s/'":]+)+/""")


class _EachOnce(yaml.SafeLoader):
    """PyYAML's safe loader, of plain data alone, that refuses a name which is given twice."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    said = f"{key.value} is given twice"
                    raise yaml.MarkedYAMLError(problem=said, problem_mark=key.start_mark)
                seen.add(key.value)
        return node


def read_yaml(text: str) -> Any:
    """What YAML text says; no object of any other kind than YAML's own is made.

    Raises:
        ValueError: it is not such text; one line says where.
    """
    try:
        if _NESTED.search(text):  # which PyYAML would take seconds over
            raise RecursionError
        return _EachOnce(text).get_single_data()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ArithmeticError, ValueError, TypeError, AttributeError,
            LookupError) as error:  # fmt: skip
        # all but the first: what PyYAML lets through for `!!int abc` and its like
        said = str(error).replace('in "<unicode string>", ', "at ")  # PyYAML's name of a text
        raise ValueError(" ".join(said.split())) from None


def read_json(text: str, most: int = MOST_VALUES) -> Any:
    """What JSON text says: each name is given once, and numbers are finite.

    Args:
        most: values it may hold, as its commas and brackets tell.

    Raises:
        ValueError: it is not such text; one line says where.
    """
    if sum(map(text.count, ",[{")) > most:
        raise ValueError(f"it holds more than {most} values")
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name} is given twice")
        if not _is_finite(value):
            raise ValueError(f"{name} must be a finite number")
        found[name] = value
    return found


def _is_finite(value: object) -> bool:
    """Whether a value, or all that lists in one another hold, is no NaN or infinity."""
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def numbers_in(value: object) -> list[float]:
    """The numbers a plain value holds.

    Raises:
        ValueError: it holds something that is not plain, or is too deep or too long.
    """
    found: list[float] = []
    level, count = [value], 0
    for _ in range(DEPTH):
        below: list[object] = []
        for each in level:
            if isinstance(each, bool | str) or each is None:
                continue
            if isinstance(each, int | float):
                found.append(each)
            elif isinstance(each, list | tuple):
                below += each
            elif isinstance(each, Mapping) and all(isinstance(key, str) for key in each):
                below += each.values()
            else:
                raise ValueError(f"{type(each).__name__} is not plain data")
        count += len(below)
        if count > VALUES:
            break
        level = below
    if level:
        raise ValueError(f"more than {VALUES} values, or {DEPTH} levels of them")
    return found


def levels_of(value: object) -> int:
    """How deeply lists and mappings lie in one another."""
    level, depth = [value], 0
    while level := [each for each in level if isinstance(each, list | tuple | dict)]:
        depth += 1
        level = [v for each in level for v in (each.values() if isinstance(each, dict) else each)]
    return depth


def pathless(text: str) -> str:
    """Text whose absolute paths are the names of what they lead to."""
    return _FOLDERS.sub("", text)


def nameless(value: Any) -> Any:
    """A value whose absolute paths, at any depth, are the names of what they lead to: what is
    written says nothing of the machine it was made on."""
    if isinstance(value, dict):
        return {key: nameless(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [nameless(each) for each in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
