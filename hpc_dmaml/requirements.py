"""Checks of fields, whose errors say what the field must be and what came."""

from __future__ import annotations

import math

MOST = 10**6
"""Most tasks, workers, steps or samples: more is a slip of the hand, and would fill the memory."""


class TaskFailure(ValueError):
    """A task's data could not be made, by an environment for example. The message names it and needs no traceback."""


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise ValueError, naming the field, unless the condition holds."""
    if not condition:
        raise ValueError(f"{name} must be {rule}, not {value}")


def count(name: str, value: int | None, least: int = 1) -> None:
    """Raise ValueError unless a number of things that memory or time must hold is in range; None is none given."""
    require(value is None or value >= least, name, value, f"{least} or more")
    require(value is None or value <= MOST, name, value, f"{MOST:,} or less")


def positive(name: str, value: float | None) -> None:
    require(value is None or (math.isfinite(value) and value > 0), name, value, "positive")
