"""convswap: pretrained convolutional networks, with fitted separable convolutions inside."""

__version__ = "0.1.0"

from .artifact import load, save
from .converting import convert
from .cost import Cost, count
from .data import open_images
from .errors import ConvswapError
from .evaluation import accuracy, fidelity
from .export import export_onnx, export_program
from .frontier import smallest_within, sweep
from .layers import DepthwiseSeparableConv2d
from .models import open_model
from .planning import Survey, plan, survey
from .plans import Budget, Choice, Plan
from .record import Preprocess, record_of
from .recovery import distill
from .sites import Site, find_sites
from .targets import open_target
from .timing import LatencyTable, Timing, measure

__all__ = [
    "Budget",
    "Choice",
    "ConvswapError",
    "Cost",
    "DepthwiseSeparableConv2d",
    "LatencyTable",
    "Plan",
    "Preprocess",
    "Site",
    "Survey",
    "Timing",
    "accuracy",
    "convert",
    "count",
    "distill",
    "export_onnx",
    "export_program",
    "fidelity",
    "find_sites",
    "load",
    "measure",
    "open_images",
    "open_model",
    "open_target",
    "plan",
    "record_of",
    "save",
    "smallest_within",
    "survey",
    "sweep",
]
