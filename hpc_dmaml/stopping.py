"""Reasons to stop in good order: a signal, or the end of the allotted time."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any


class Stop:
    """SIGUSR1, SIGTERM and SIGINT ask for a stop, as does the time limit; a second SIGINT ends the process at once.

    A context manager: outside of it signals do what they did before.
    """

    def __init__(self, time_limit_s: float | None = None) -> None:
        self._asked = False
        self._end = None if time_limit_s is None else time.monotonic() + time_limit_s
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def asked(self) -> bool:
        return self._asked or (self._end is not None and time.monotonic() >= self._end)
