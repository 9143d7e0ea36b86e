"""How bright white is in images of more than 8 bits: the type of their numbers need not tell."""

from __future__ import annotations

from ..errors import DataError
from ..support.progress import Note
from .items import ReadFile
from .pixels import WIDE, brightest
from .sources import Source

LOOKED_AT = 16  # images, from all over the source
DARK = 16  # white is at least so many times the brightest value where it is said


def white_of(source: str, found: Source, note: Note) -> int | None:
    """White of images of 32-bit integers, unless it is the largest of their type.

    Args:
        note: told where it is another, and of images of any type that are almost black.
    """
    seen = []
    for index in range(0, len(found.files), -(-len(found.files) // LOOKED_AT)):
        try:
            seen.append(ReadFile(found, brightest)(index))
        except (OSError, DataError):
            continue
    deep = [values for values in seen if values]
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
