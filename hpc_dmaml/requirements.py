"""Checks of fields, whose errors say what the field must be and what came."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

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
    require(value is None or (is_number(value) and value > 0), name, repr(value), "positive")


def not_negative(name: str, value: float) -> None:
    require(is_number(value) and value >= 0, name, value, "0 or more")


def is_number(value: Any) -> bool:
    """Whether a value, numpy's included, is a number of a size that a float can hold."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def is_whole(value: Any, least: int = 0) -> bool:
    """Whether a value, numpy's included, is a whole number, `least` or more."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
