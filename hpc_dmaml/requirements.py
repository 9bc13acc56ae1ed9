"""Checks of fields, whose errors say what the field must be and what came."""

from __future__ import annotations

import math


class TaskFailure(ValueError):
    """A task's data could not be made, by an environment for example. The message names it and needs no traceback."""


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise ValueError, naming the field, unless the condition holds."""
    if not condition:
        raise ValueError(f"{name} must be {rule}, not {value}")


def positive(name: str, value: float | None) -> None:
    require(value is None or (math.isfinite(value) and value > 0), name, value, "positive")
