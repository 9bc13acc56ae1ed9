"""The metric that a task is evaluated by, besides its loss. Needs no torch, nor does reading result files."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A number for each task that a loss computes besides its value: accuracy, return, success, …"""

    name: str
    unit: str = "1"
    """Unit of the stored numbers; "share" for a fraction from 0 to 1, which is shown in per cent."""
    higher_is_better: bool = True

    @property
    def is_share(self) -> bool:
        """Whether the metric is a fraction from 0 to 1."""
        return self.unit == "share"

    @property
    def suffix(self) -> str:
        """The unit to print after a number; empty for plain numbers."""
        return "%" if self.is_share else "" if self.unit == "1" else self.unit


ACCURACY = Metric("accuracy", "share")
