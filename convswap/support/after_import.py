"""Import a module once somebody has imported another one."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def after_import(theirs: str, ours: str) -> None:
    """Import `ours` when `theirs` has been imported, be it already."""
    if theirs in sys.modules:
        import_module(ours)
    else:
        sys.meta_path.insert(0, _After(theirs, ours))


class _After(MetaPathFinder):
    def __init__(self, theirs: str, ours: str):
        self._theirs, self._ours = theirs, ours

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != self._theirs:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def then_ours(module: ModuleType) -> None:
                execute(module)
                import_module(self._ours)

            spec.loader.exec_module = then_ours
        return spec
