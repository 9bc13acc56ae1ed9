"""Requests to stop a job properly: by a signal, or the time limit. Imports nothing that takes time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from hpc_dmaml.launcher import launched_rank

SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def hold() -> None:
    """Block the signals, while a command imports what it needs, until `Stop` is entered, or `release` called."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def release() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


class Stop:
    """Requests to stop, by one of `SIGNALS` or the time limit; a second SIGINT ends the process at once.

    A context manager around a process's whole work: the time limit counts from its creation. Afterwards the signals are
    ignored, so that a late one does not kill a rank, and with it all others, while it exits.
    """

    def __init__(self, time_limit_s: float | None = None) -> None:
        self.time_limit_s = time_limit_s
        self._asked, self._start = False, time.monotonic()
        self._save: Callable[[], object] | None = None
        self._hurried = False

    def __enter__(self) -> Stop:
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
                signal.signal(number, self._receive)
        release()
        return self

    def __exit__(self, *error: object) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._asked:
                raise KeyboardInterrupt
            _say("Stopping after this run. Press Ctrl-C again to stop at once.")
        if number in (signal.SIGINT, signal.SIGTERM) and not self._asked and "OMPI_COMM_WORLD_SIZE" in os.environ:
            _say("Asked to stop. Open MPI may not wait for the end of this run: writing what there is.")
            self._hurried = True
            if self._save is not None:
                self._save()
        self._asked = True

    def ask(self) -> None:
        self._asked = True

    def asked(self) -> bool:
        return self._asked or (self.time_limit_s is not None and time.monotonic() - self._start >= self.time_limit_s)

    def in_haste(self) -> bool:
        """Whether Open MPI's mpirun requested the stop: it forwards TERM and INT as TERM, and soon afterwards kills."""
        return self._hurried

    @contextmanager
    def saving(self, save: Callable[[], object]) -> Iterator[None]:
        """In this block, a signal handler that is in haste may call `save` at any moment."""
        self._save = save
        try:
            yield
        finally:
            self._save = None


def _say(message: str) -> None:
    """Print on rank 0, but not by print: the signal may have come in the middle of one."""
    if launched_rank(os.environ) == 0:
        with suppress(OSError):
            os.write(2, f"\n{message}\n".encode())
