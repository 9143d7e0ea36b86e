"""What convswap writes from a network of timm holds timm's `config.json` as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..record import Base, Record
from ..support.files import read_text
from ..support.plain import read_json

ARCHITECTURE = "convswap_net"


def config_of(model: nn.Module, record: Record) -> dict[str, Any] | None:
    """The content of timm's `config.json` for a converted network; None where timm does not
    open it."""
    if not opens(record.base):
        return None
    from timm.models._hub import filter_pretrained_cfg

    known = filter_pretrained_cfg(
        dict(getattr(model, "pretrained_cfg", {})), remove_source=True, remove_null=True
    )
    if how := record.preprocess:
        if list(known.get("input_size", ())) != list(how.input_size):  # what goes with the old one
            known = {key: known[key] for key in known if not key.startswith(("test_", "pool_"))}
        known |= how.model_dump(mode="json")
    known |= {"num_classes": model.num_classes, "architecture": ARCHITECTURE}
    return {
        "architecture": ARCHITECTURE,
        "num_classes": model.num_classes,
        "num_features": getattr(model, "num_features", None),
        "pretrained_cfg": known,
        "model_args": {
            "base": record.base.name.removeprefix("timm:"),
            "base_args": record.base.kwargs,
            "folded": record.base.folded,
            "plans": [plan.model_dump(mode="json") for plan in record.plans],
            **({"norms": record.norms} if record.norms else {}),
        },
    }


def opens(base: Base) -> bool:
    """Whether timm opens what is made from a network: one of its own, and whole, for it wraps
    networks for `features_only` by itself."""
    return base.name.startswith("timm:") and not base.kwargs.get("features_only")


def is_config(path: Path) -> bool:
    """Whether a file is a `config.json` of this module's, and no link."""
    if path.is_symlink():
        return False
    try:
        content = read_json(read_text(path))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("architecture") == ARCHITECTURE
