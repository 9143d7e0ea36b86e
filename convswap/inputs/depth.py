"""What some images of a source tell of all: whether they have colours, and how bright white is
where they have more than 8 bits: the type of their numbers need not tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..errors import DataError
from ..support.progress import Note
from .items import ReadFile
from .pixels import WIDE, brightest, has_colours
from .sources import Source

LOOKED_AT = 16  # images, from all over the source
DARK = 16  # white is at least so many times the brightest value where it is said


def are_coloured(found: Source) -> bool:
    """Whether some of the images have colours."""
    return any(_looked_at(found, has_colours))


def white_of(source: str, found: Source, note: Note) -> int | None:
    """White of images of 32-bit integers, unless it is the largest of their type.

    Args:
        note: told where it is another, and of images of any type that are almost black.
    """
    deep = [values for values in _looked_at(found, brightest) if values]
    longest = [value for value, largest in deep if largest > WIDE]
    # No camera fills 32 bits: a program has written 8 or 16 in a wider type than it needed.
    white = next((w for w in (255, WIDE) if longest and max(longest) <= w), None)
    if white:
        note(
            f"images of {source} are of 32 bits, of which {len(longest)} looked at use "
            f"{white.bit_length()}: white is {white}"
        )
    # subtle: in 16 bits, white is not guessed. Of 12 bits or dark, values are the same, and one
    # folder would be read brighter than the next.
    shares = [value / (white if white and largest > WIDE else largest) for value, largest in deep]
    if shares and max(shares) < 1 / DARK:
        note(
            f"images of {source} are almost black: no value of {len(shares)} looked at is above "
            f"{max(shares):.2%} of white; if that is white, multiply mean and std by it"
        )
    return white


def _looked_at(found: Source, look: Callable[..., Any]) -> Iterator[Any]:
    """What some images look like; those that cannot be read are told of when they are."""
    for index in range(0, len(found.files), -(-len(found.files) // LOOKED_AT)):
        try:
            yield ReadFile(found, look)(index)
        except (OSError, DataError):
            continue
