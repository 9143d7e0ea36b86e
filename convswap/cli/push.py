"""convswap push: an artifact on the model hub, where convswap and timm open it by name."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from . import console, early
from . import options as o

EXAMPLE = "convswap push r18-half me/resnet18-half"
Repository = Annotated[
    str, Parameter(name="USER/NAME", help="of the repository; created unless there is one")
]
Private = Annotated[bool, Parameter(help="create it for nobody else to see")]


def push(folder: o.Artifact, repository: Repository, /, *, private: Private = False) -> None:
    """Upload an artifact folder to the model hub: safetensors, descriptions and card, nothing else.

    The account is that of `hf auth login`, or of the variable HF_TOKEN.
    """
    early.check(artifact=folder)
    from ..artifact.publishing import push as put

    console.wrote(put(folder, repository, private=private))
