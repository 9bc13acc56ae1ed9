"""Whether a job is alive, as far as its file, its lock and SLURM tell: decided here alone. Needs neither MPI nor torch."""

from __future__ import annotations

import socket
import time

import numpy as np

from hpc_dmaml.analysis import stats
from hpc_dmaml.files import is_locked
from hpc_dmaml.results import Results

QUIET_S = 60.0
"""On another host a lock may not be seen: there a job is dead if its file, too, has been still for so long, at least."""
AT_WORK = ("RUNNING", "COMPLETING")
"""States in SLURM's queue."""
PACE = 20
"""A job's pace is that of so many last runs."""


def is_alive(job: Results, queued: str | None = None, submitted: bool = False) -> bool:
    """Is there a process that goes on with a job whose file (groups runs and ranks) says that it is running?

    `submitted`: it was handed to SLURM, whose queue knows it as `queued`, or no more. Asked of a live job, the lock stays
    untouched: it is held, and that is the answer.
    """
    if is_locked(job.path) or queued in AT_WORK:
        return True
    if submitted or job["ranks/host"][0] == socket.gethostname():
        return False
    every_s = job.config.get("checkpoint", {}).get("every_s") or 0.0
    try:
        still_s = time.time() - job.path.stat().st_mtime
    except OSError:  # a network that comes back
        return True
    return not still_s > np.fmax(QUIET_S, 3 * np.fmax(every_s, pace_s(job)))


def pace_s(job: Results) -> float:
    """Seconds of a run, lately; the first one, which warms up, counts only while it is alone. NaN before."""
    wall = stats.known(job["runs/wall_s"])[-PACE - 1 :]
    return float(stats.mean(np.diff(wall) if len(wall) > 1 else wall))
