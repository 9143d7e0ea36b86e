"""The model card of an artifact: the `README.md` that model hubs show, with their front matter.

It says by a digest of itself that convswap wrote it: a card that a person wrote, or changed, is
theirs and is never replaced.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import ModelCardData

from ..errors import one_line
from ..record import Base, Record
from ..support.figures import FIGURES, quantity
from ..support.files import read_text
from .timm_config import opens

CARD = "README.md"
_MARK = re.compile(r"<!-- written by convswap, sha256 ([0-9a-f]{64}) -->\n")


def card_of(record: Record, weights_bytes: int, distilled: object = None) -> str:
    """The text of a card.

    Args:
        weights_bytes: of all tensors of the network.
        distilled: how it was distilled, as its provenance says; None if it was not.
    """
    base, first, last = record.base, record.plans[0], record.plans[-1]
    own = base.name == "code"
    name = "a network of the user's own code" if own else f"`{base.name}`"
    rows = [
        ("multiply-adds", quantity(first.dense.macs), quantity(last.planned.macs)),
        ("parameters", quantity(first.dense.params), quantity(last.planned.params)),
        ("size", *map(FIGURES["bytes"][1], (first.dense.bytes, weights_bytes))),
    ]
    if (time := last.latency) and len(record.plans) == 1:
        place = one_line(f"{time.target}, threads {time.threads}, batch {time.batch}")
        rows.append((f"milliseconds ({place})", f"{time.ms_dense:.3g}", f"{time.ms:.3g}"))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    opening = 'convswap.load("FOLDER", model=build())' if own else 'convswap.load("FOLDER")'
    seeded = not own and (base.weights or "").startswith("seed:")  # own code may load its own
    then = _recovery(distilled) + "." + seeded * " Its weights were random to begin with."
    body = f"""
# {"A converted network" if own else base.name.partition(":")[2]}, made cheaper by convswap

{name[0].upper() + name[1:]} whose convolutions were replaced by fitted separable ones{then}

| | dense | converted |
|---|---|---|
{table}

```python
import convswap

model = {opening}{"  # build: your own code" if own else ""}
```
{_by_timm(base)}
`convswap.json` says which layer became what, and how.
"""
    text = f"---\n{_front_matter(record).to_yaml()}\n---\n{body}\n"
    return f"{text}<!-- written by convswap, sha256 {_digest(text)} -->\n"


def _recovery(distilled: object) -> str:
    """What followed, as the end of a sentence."""
    if not isinstance(distilled, Mapping):
        return ""
    images = distilled.get("images")
    many = f" on {images:,} images" if isinstance(images, int) else ""
    labels = "and their labels" if distilled.get("labels") else "without labels"
    return f", and which was then distilled from the original{many}, {labels}"


def _by_timm(base: Base) -> str:
    if not opens(base):
        return ""
    return """
or, with `num_classes`, `features_only` and whatever else timm does:

```python
import convswap, timm  # the first tells timm what convswap_net is

model = timm.create_model("local-dir:FOLDER", pretrained=True)  # or "hf-hub:USER/NAME"
```
"""


def is_replaceable(path: Path) -> bool:
    """Whether there is no file, or one that is as convswap wrote it."""
    if path.is_symlink():
        return False
    if not path.exists():
        return True
    try:
        text = read_text(path)
    except (OSError, ValueError):
        return False
    mark = _MARK.search(text)
    return bool(mark) and mark.end() == len(text) and _digest(text[: mark.start()]) == mark[1]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _front_matter(record: Record) -> ModelCardData:
    base, plan = record.base, record.plans[-1]
    size = plan.input_size
    classifies = plan.output == "logits" and size is not None and size[0] in (1, 3)
    source, license_name = _published(base)
    return ModelCardData(
        library_name="convswap",
        base_model=source,
        license=license_name,
        pipeline_tag="image-classification" if classifies else None,
        tags=["convswap", "model-compression"],
    )


def _published(base: Base) -> tuple[str | None, str | None]:
    """Where the weights a network started from are published, and their license, if known: of
    timm's pretrained ones alone, for torchvision's have no page on the hub."""
    source, _, name = base.name.partition(":")
    if source != "timm" or base.weights != "pretrained":
        return None, None
    import timm

    config = timm.get_pretrained_cfg(name)
    return (config.hf_hub_id, config.license) if config else (None, None)
