"""Decide whether a job is alive, from its file, its lock and SLURM's queue. Needs neither MPI nor torch."""

from __future__ import annotations

import socket
import time

import numpy as np

from hpc_dmaml.analysis import stats
from hpc_dmaml.files import is_locked
from hpc_dmaml.results import Results

QUIET_S = 60.0
"""Least age in seconds of the file of a dead job on another host, where its lock may be invisible."""
AT_WORK = ("RUNNING", "COMPLETING")
"""States in SLURM's queue of a job whose processes run."""
PACE = 20
"""Number of last runs over which a job's pace is averaged."""


def is_alive(job: Results, queued: str | None = None, submitted: bool = False) -> bool:
    """Whether a process still works on a job whose file (groups runs and ranks) has the status running.

    `submitted`: whether it was submitted to SLURM, in whose queue its state is `queued`, or None if it has left it. The
    lock of a live job is only tested, never taken.
    """
    if is_locked(job.path) or queued in AT_WORK:
        return True
    if submitted or job["ranks/host"][0] == socket.gethostname():
        return False
    every_s = job.config.get("checkpoint", {}).get("every_s") or 0.0
    try:
        still_s = time.time() - job.path.stat().st_mtime
    except OSError:  # a network file system that may come back
        return True
    return not still_s > np.fmax(QUIET_S, 3 * np.fmax(every_s, pace_s(job)))


def pace_s(job: Results) -> float:
    """Mean seconds of the last runs; the first one (warm-up) counts only while it is the only one. NaN without runs."""
    wall = stats.known(job["runs/wall_s"])[-PACE - 1 :]
    return float(stats.mean(np.diff(wall) if len(wall) > 1 else wall))
