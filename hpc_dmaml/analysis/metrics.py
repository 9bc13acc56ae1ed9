"""What jobs are judged by, in words: their loss, or the metric that their files name. Needs neither MPI nor torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpc_dmaml.losses.metric import ACCURACY, Metric
from hpc_dmaml.results import metric_in

LOSS = Metric("loss", higher_is_better=False)
"""The loss, looked at as metrics are."""


def words(metric: Metric) -> str:
    """On an axis: "accuracy", "return", "distance (m)"; the numbers of shares bear their sign themselves."""
    return metric.name if metric.is_share or not metric.suffix else f"{metric.name} ({metric.suffix})"


def chance(attributes: Mapping[str, Any]) -> float | None:
    """The accuracy of guessing; None for what is no classification's accuracy."""
    guessed = metric_in(attributes) == ACCURACY and attributes["loss"] == "cross_entropy"
    return 1 / int(attributes["outputs"]) if guessed else None
