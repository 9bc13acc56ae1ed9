"""Run a job: set up, then round after round, each recorded and shown, until its end or a stop."""

from __future__ import annotations

import platform
from contextlib import ExitStack

import numpy as np

from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import RunConfig
from hpc_dmaml.launch import COMPLETE, FAILED, INTERRUPTED
from hpc_dmaml.progress import Progress
from hpc_dmaml.recorder import Recorder
from hpc_dmaml.rounds import Rounds
from hpc_dmaml.setup import Job, set_up
from hpc_dmaml.stopping import Stop


def run_job(config: RunConfig, comm: Communicator, stop: Stop | None = None) -> int:
    """Run a job until its end or a requested stop. Returns the exit code, the same on every rank.

    Raises Refusal for bad input, on every rank, before any output is written.
    """
    stop = stop or Stop()
    stop.time_limit_s = config.time_limit_s
    with ExitStack() as stack:
        job = set_up(config, comm, stop, stack)
        places = comm.all_gather_objects((platform.node(), str(job.device)))
        with comm.raising_together():
            recorder = Recorder(job, places, stop)
        progress = stack.enter_context(Progress(job))
        if recorder.stands_still():
            progress.fail("SLURM restarts this job again and again, and it makes no run", recorder.finish("failed"))
            return FAILED
        try:
            stopped = train(job, recorder, progress, stop)
        except FloatingPointError as error:  # on every rank: all of them saw the same reports
            progress.fail(str(error), recorder.finish("failed"))
            return FAILED
        written = recorder.finish("interrupted" if stopped else "complete")
        progress.finish(job.state.validation, stopped, written)
        if written != job.output:
            return FAILED
        return INTERRUPTED if stopped else COMPLETE


def train(job: Job, recorder: Recorder, progress: Progress, stop: Stop) -> bool:
    """Run all rounds. Returns whether a stop was requested before the end."""
    runs, rounds = job.config.runs, Rounds(job, stop, recorder.save, recorder.is_due)
    # Set-up may take long: a stop may have been requested in the meantime.
    stopped = job.state.run < runs and any(job.comm.all_gather_objects(stop.asked()))
    while job.state.run < runs and not stopped:
        done = rounds.one()
        recorder.record(done)
        progress.show(done)
        stopped = bool(done.reports.of("stop").any()) and job.state.run < runs
    recorder.complete_times(job.comm.gather(np.array(rounds.times())))
    return stopped
