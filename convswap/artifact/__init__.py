"""What comes out: a folder with the weights (safetensors) and how to rebuild the network (JSON)."""

from .description import DESCRIPTION, WEIGHTS, read_description
from .loading import load
from .saving import save

__all__ = ["DESCRIPTION", "WEIGHTS", "load", "read_description", "save"]
