"""The one family of errors convswap raises for expected failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


class ConvswapError(Exception):
    """An expected failure: what is wrong, where, and what to do about it.

    The command line prints it as one line and exits with `exit_code`.
    """

    exit_code = 2

    def __init__(self, message: str, *, where: str | None = None, do: str | None = None):
        self.message, self.where, self.do = message, where, do
        parts = [message]
        if where:
            parts.append(f"({where})")
        if do:
            parts.append(f"- {do}")
        super().__init__(one_line(" ".join(parts)))


class ModelError(ConvswapError):
    """The network or its weights cannot be opened."""


class DataError(ConvswapError):
    """The images cannot be read, or do not fit the network."""


class RankError(ConvswapError):
    """A rank lies outside what a form allows for a kernel."""


class PlanError(ConvswapError):
    """A plan does not fit the network it is applied to, or cannot be read."""


class RecipeError(ConvswapError):
    """A recipe has unknown or invalid entries; all of them are in the message."""


class ArtifactError(ConvswapError):
    """An artifact folder is damaged, hostile, or of an unknown version."""


class TargetError(ConvswapError):
    """A target cannot run a network or a layer; the message names both."""


class BudgetError(ConvswapError):
    """No plan meets the budget; the message says the least that can be reached."""

    exit_code = 1


class ConversionError(ConvswapError):
    """Nothing in the network can be converted; the message says why."""

    exit_code = 3


def reason(error: Exception) -> str:
    """What an error says, without the number and the file that the system's errors come with."""
    return getattr(error, "strerror", None) or str(error)


def one_line(text: str, most: int = 2000) -> str:
    """Text as it may be printed: control characters are spelled out, for a name must not forge
    lines or colours, and the middle of a long text is left out."""
    if len(text) > most:
        text = f"{text[: most // 2]} ... {text[5 - most // 2 :]}"
    if not text.isprintable():
        text = spelled(text)
        return text if len(text) <= most else one_line(text, most)
    return text


def spelled(text: str, but: str = "") -> str:
    """Text whose characters that do not print are spelled out, `but` for some."""
    spell = {c: c.encode("unicode_escape").decode() for c in {*text} if not c.isprintable()}
    return text.translate(str.maketrans({c: s for c, s in spell.items() if c not in but}))


def problems(error: ValidationError) -> str:
    """All that pydantic found wrong, in one line."""
    if (count := error.error_count()) > 1000:  # 2 KB for each, of which nobody reads the most
        return f"{count} of its entries are wrong"
    return "; ".join(map(problem, error.errors()))


_SAID = {  # of the kinds of problems that pydantic words for programmers
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "too_short": "takes at least {min_length} of them, not {actual_length}",
    "too_long": "takes at most {max_length} of them, not {actual_length}",
    "literal_error": "must be {expected}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be a mapping"),
    "string_type": "must be text",
    "json_invalid": "is not JSON: {error}",
}


def problem(found: Mapping[str, Any]) -> str:
    """One thing that pydantic found wrong: where, and what."""
    where = ".".join(map(str, found["loc"]))
    said = found["msg"].lower().removeprefix("value error, ")
    if found["type"] in _SAID:
        said = _SAID[found["type"]].format_map(found.get("ctx", {}))
    return f"{where}: {said}" if where else said
