"""What to choose: every replacement of every layer, its cost and its damage, and the best of all
choices within a budget of counts or of measured time."""

from .surveying import Survey, plan, survey

__all__ = ["Survey", "plan", "survey"]
