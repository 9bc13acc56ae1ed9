"""Measure the time in which a rank gets data: draws tasks, and samples trajectories. The rest is computation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_seconds = 0.0


@contextmanager
def data_time() -> Iterator[None]:
    """Count the time spent in this block as time for data. Must not be nested."""
    global _seconds
    start = time.perf_counter()
    try:
        yield
    finally:
        _seconds += time.perf_counter() - start


def taken_s() -> float:
    """Seconds spent on data since the last call."""
    global _seconds
    taken, _seconds = _seconds, 0.0
    return taken
