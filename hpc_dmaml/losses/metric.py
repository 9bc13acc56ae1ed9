"""What a task is judged by, besides its loss. Needs no torch, as those who read result files want it too."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A number for each task that a loss gives beside its value: accuracy, return, success, …"""

    name: str
    unit: str = "1"
    """Of the numbers as they are stored; "share" for a part of 1, which is shown in per cent."""
    higher_is_better: bool = True

    @property
    def is_share(self) -> bool:
        """Does it lie from 0 to 1?"""
        return self.unit == "share"

    @property
    def suffix(self) -> str:
        """What stands behind a number of it; nothing behind plain ones."""
        return "%" if self.is_share else "" if self.unit == "1" else self.unit


ACCURACY = Metric("accuracy", "share")
