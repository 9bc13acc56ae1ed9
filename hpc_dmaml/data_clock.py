"""How long a rank waits for data: to draw tasks, and to sample trajectories. The rest of its work is computation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_seconds = 0.0


@contextmanager
def data_time() -> Iterator[None]:
    """What is done in this block counts as getting data. Not to be nested."""
    global _seconds
    start = time.perf_counter()
    try:
        yield
    finally:
        _seconds += time.perf_counter() - start


def taken_s() -> float:
    """How long it took since the last call."""
    global _seconds
    taken, _seconds = _seconds, 0.0
    return taken
