"""Reasons to stop in good order: a signal, or the end of the allotted time."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from types import FrameType

from hpc_dmaml.communicator import launched_rank

SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


class Stop:
    """SIGUSR1, SIGTERM and SIGINT ask for a stop, as does the time limit; a second SIGINT ends the process at once.

    A context manager around a process's whole work: the time limit counts from here. Afterwards the signals are
    ignored, so that one that comes late does not kill a rank, and with it all others, on its way out.
    """

    def __init__(self, time_limit_s: float | None = None) -> None:
        self.time_limit_s = time_limit_s
        self._asked, self._start = False, time.monotonic()

    def __enter__(self) -> Stop:
        for number in SIGNALS:
            signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._asked:
                raise KeyboardInterrupt
            if launched_rank(os.environ) == 0:
                with suppress(OSError):  # not print: the signal may have come in the middle of one
                    os.write(2, b"\nStopping after this run. Press Ctrl-C again to stop at once.\n")
        self._asked = True

    def asked(self) -> bool:
        return self._asked or (self.time_limit_s is not None and time.monotonic() - self._start >= self.time_limit_s)
