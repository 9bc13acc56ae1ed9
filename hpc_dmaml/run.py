"""A job: set up, then run after run — work, exchange, new θ, validation, log."""

from __future__ import annotations

import platform
import time
import zlib
from contextlib import ExitStack

import numpy as np
from torch import Tensor

from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import RunConfig
from hpc_dmaml.exchange import Exchange, RankReport, Reports
from hpc_dmaml.launch import COMPLETE, FAILED, INTERRUPTED
from hpc_dmaml.progress import Progress
from hpc_dmaml.randomness import Purpose
from hpc_dmaml.recorder import Recorder, Round
from hpc_dmaml.setup import Job, set_up
from hpc_dmaml.state import Validation
from hpc_dmaml.stopping import Stop
from hpc_dmaml.validation import validate
from hpc_dmaml.worker import work


def run_job(config: RunConfig, comm: Communicator, stop: Stop | None = None) -> int:
    """Run a job to its end, or to a stop that is asked for. Returns the exit code, the same on every rank.

    Raises Refusal for bad input, on every rank, before any output is written.
    """
    stop = stop or Stop()
    stop.time_limit_s = config.time_limit_s
    with ExitStack() as stack:
        job = set_up(config, comm, stop, stack)
        places = comm.all_gather_objects((platform.node(), str(job.device)))
        with comm.agreeing():
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
    """The loop. Returns whether it was asked to stop before its end."""
    runs, rounds = job.config.runs, Rounds(job, recorder, stop)
    # Set-up may take long: was a stop asked for in the meantime?
    stopped = job.state.run < runs and any(job.comm.all_gather_objects(stop.asked()))
    while job.state.run < runs and not stopped:
        done = rounds.one()
        recorder.record(done)
        progress.show(done)
        stopped = bool(done.reports.of("stop").any()) and job.state.run < runs
    recorder.complete_times(job.comm.gather(np.array(rounds.times())))
    return stopped


class Rounds:
    """Makes one round after another: work, report, combine, step, share, validate."""

    def __init__(self, job: Job, recorder: Recorder, stop: Stop) -> None:
        config, placement = job.config, job.placement
        self.job, self.recorder, self.stop = job, recorder, stop
        generator, is_group = config.weight_generator, placement.group_size > 1
        gathers = config.exchange == "gather" or generator.needs_gram
        walks = config.epochs > 1 or config.local_optimizer is not None
        whole = is_group and (walks or config.clip is not None or generator.needs_gram)
        self.exchange = Exchange(job.comm, placement, generator, gathers, whole)
        self.group_sum = job.comm.split(placement.hosted[0]).tensor_sum if whole else None
        self.exchange_s = self.validation_s = 0.0

    def one(self) -> Round:
        """The round that comes next. Raises FloatingPointError, on every rank, where nothing can be learned from it; then
        the state is that before it."""
        job, state, exchange = self.job, self.job.state, self.exchange
        config, run = job.config, state.run
        updates, reports = self.work_and_report()
        check_digests(reports.of("digest"), run)
        state.own.undo(reports.finite)

        start = time.perf_counter()
        losses = np.where(reports.finite, reports.loss, np.nan)
        memory = np.vstack([state.memory, losses])[-config.weight_generator.memory_length :]
        try:
            weights, update = exchange.combine(updates, memory, reports.finite)
        except FloatingPointError:
            state.own.undo(np.zeros_like(reports.finite))
            raise
        if update is not None:
            state.model.step(update.to(state.model.theta.device), config.schedule.factor(run))
        exchange.share(state.model)
        state.memory, state.run = memory, run + 1
        self.exchange_s = time.perf_counter() - start

        start, validation = time.perf_counter(), None
        if is_due(run, config.validation.every, config.runs):
            validation = validate_now(job, run)
            state.judge(run, validation, job.learner.loss.metric)
        self.validation_s = time.perf_counter() - start if validation is not None else 0.0

        writes = bool(reports.of("write").any())
        if writes:
            state.own.gather(job.comm)
        return Round(run, reports, weights, validation, writes)

    def work_and_report(self) -> tuple[list[Tensor], Reports]:
        """What this rank's workers give, and how all workers and ranks did."""
        job, run, theta = self.job, self.job.state.run, self.job.state.model.theta
        start = time.perf_counter()
        with self.stop.saving(self.recorder.save):
            results = [
                work(
                    job.learner, theta, run, worker, job.placement, self.group_sum, job.state.own.by_worker.get(worker)
                )
                for worker in job.placement.hosted
            ]
        work_s = time.perf_counter() - start
        every = job.config.check_every
        digest = float(zlib.crc32(theta.cpu().numpy().tobytes())) if every and run % every == 0 else 0.0
        stops, writes = float(self.stop.asked()), float(self.recorder.is_due(run))
        report = RankReport(work_s, stops, writes, digest, *self.times())
        return [update for update, _ in results], self.exchange.report([r for _, r in results], report)

    def times(self) -> tuple[float, float, float]:
        """What the last round took of `results.RANK_TIMES`: a rank knows it only when the round is over."""
        return self.exchange_s, self.exchange.wait_s, self.validation_s


def validate_now(job: Job, run: int) -> Validation:
    """Held-out tasks, the same each time or those of this run."""
    settings = job.config.validation
    key = (Purpose.VALIDATION, 0 if settings.fixed else run)
    return validate(job.learner, job.state.model.theta, job.comm, "validation", key, settings.tasks, settings.steps)


def is_due(run: int, every: int, runs: int) -> bool:
    """Is there a validation after this run? After every `every` runs, and after the last."""
    return every > 0 and ((run + 1) % every == 0 or run + 1 == runs)


def check_digests(digests: np.ndarray, run: int) -> None:
    """Raise RuntimeError if the ranks' parameters are not the same."""
    if len(set(digests.tolist())) > 1:
        other = int(np.argmax(digests != digests[0]))
        raise RuntimeError(
            f"run {run}: rank {other} has other parameters than rank 0. Nodes with different processors or libraries "
            "can round differently: use --exchange gather, which broadcasts the parameters"
        )
