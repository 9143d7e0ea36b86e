"""What to choose: every replacement of every layer, its cost and its damage, and the best of all
choices within a budget of counts or of measured time."""

from .planner import plan, plan_from
from .surveying import Survey, survey

__all__ = ["Survey", "plan", "plan_from", "survey"]
