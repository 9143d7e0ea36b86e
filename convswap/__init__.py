"""convswap: pretrained convolutional networks, with fitted separable convolutions inside."""

from .cost import Cost, count
from .errors import ConvswapError
from .planning import Budget, Plan, plan
from .surgery import convert

__all__ = ["Budget", "ConvswapError", "Cost", "Plan", "convert", "count", "plan"]
