"""How long networks and single layers take on a target, and how much memory."""

from .latency import LatencyTable
from .turns import Timing, measure

__all__ = ["LatencyTable", "Timing", "measure"]
