"""How images were read in training, where the script that trained a network wrote it down."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from pydantic import ValidationError

from ..record import Preprocess

SIDES = ("input_size", "img_size", "val_crop_size")  # of timm and DeiT, of timm, of torchvision


def read_as_trained(known: Preprocess, args: Mapping) -> Preprocess:
    """How images become inputs by the arguments of timm's and torchvision's training scripts, and
    of those that took theirs from them.

    Args:
        known: how they do by what the network says; taken where there is no such argument, or it
            means nothing.
    """
    said = {name: args[name] for name in ("interpolation", "crop_pct", "crop_mode") if name in args}
    side = next((args[name] for name in SIDES if args.get(name)), None)
    size = (known.channels, side, side) if isinstance(side, int) else side
    said["input_size"] = size if isinstance(size, (list, tuple)) and len(size) == 3 else None
    for name in ("mean", "std"):
        values = args.get(name)
        one = isinstance(values, (list, tuple)) and len(values) == 1
        said[name] = [*values] * known.channels if one else values
    cropped, whole = args.get("val_crop_size"), args.get("val_resize_size")
    if isinstance(cropped, int) and isinstance(whole, int) and whole:
        said["crop_pct"] = cropped / whole
    for name, value in said.items():
        if value:  # where nothing was said, scripts write None, 0 or no word
            with suppress(ValidationError):
                known = Preprocess.model_validate(known.model_dump() | {name: value})
    return known
