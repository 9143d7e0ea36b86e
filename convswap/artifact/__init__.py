"""What comes out: a folder with the weights (safetensors) and how to rebuild the network (JSON)."""

import lazy_loader

from ..support.files import DESCRIPTION as DESCRIPTION
from ..support.files import WEIGHTS as WEIGHTS

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "description": ["read_description"],
        "loading": ["load"],
        "saving": ["save"],
    },
)
