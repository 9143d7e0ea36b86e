"""Data whose numbers are numbers."""

from __future__ import annotations

from pydantic import BaseModel, model_validator


class Numbered(BaseModel):
    """Takes no truth for a number, as Python does: `macs: true` is a mistake, not 1."""

    @model_validator(mode="before")
    @classmethod
    def _no_truths(cls, content: object) -> object:
        for name, value in content.items() if isinstance(content, dict) else ():
            field, several = cls.model_fields.get(name), isinstance(value, (list, tuple))
            truths = [each for each in (value if several else [value]) if isinstance(each, bool)]
            if truths and field and "bool" not in str(field.annotation):
                raise ValueError(f"{name} must not be {str(truths[0]).lower()}")
        return content
