"""How a field's value is refused: named, with what came and what it must be."""

from __future__ import annotations

import math


class TaskFailure(ValueError):
    """A task's data could not be made, by an environment for example: the message names it, and says all there is to say."""


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise ValueError, naming the field, unless the condition holds."""
    if not condition:
        raise ValueError(f"{name} must be {rule}, not {value}")


def positive(name: str, value: float | None) -> None:
    require(value is None or (math.isfinite(value) and value > 0), name, value, "positive")
