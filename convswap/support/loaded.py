"""Names of libraries that take seconds to import and may not be needed."""

from __future__ import annotations

import sys
from typing import Any


def loaded(place: str) -> tuple[Any, ...]:
    """What stands at `module:name`, alone in a tuple, as for `isinstance`; nothing where nobody has
    imported the module: then there are no objects of its classes."""
    module, _, name = place.partition(":")
    found = getattr(sys.modules.get(module), name, None)
    return () if found is None else (found,)
