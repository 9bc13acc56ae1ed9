"""A job: set up, then run after run — work, exchange, new θ, validation, log."""

from __future__ import annotations

import platform
import time
import zlib
from contextlib import ExitStack

import numpy as np

from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import RunConfig
from hpc_dmaml.exchange import Exchange, RankReport
from hpc_dmaml.launch import COMPLETE, FAILED, INTERRUPTED
from hpc_dmaml.progress import Progress
from hpc_dmaml.randomness import Purpose
from hpc_dmaml.recorder import Recorder
from hpc_dmaml.setup import Job, set_up
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
        progress = stack.enter_context(Progress(job, recorder.first_run))
        if recorder.stands_still():
            progress.fail("SLURM restarts this job again and again, and it makes no run", recorder.finish("failed"))
            return FAILED
        try:
            stopped = train(job, recorder, progress, stop)
        except FloatingPointError as error:  # on every rank: all of them saw the same reports
            progress.fail(str(error), recorder.finish("failed"))
            return FAILED
        written = recorder.finish("interrupted" if stopped else "complete")
        progress.finish(recorder.last_validation, stopped, written)
        if written != job.output:
            return FAILED
        return INTERRUPTED if stopped else COMPLETE


def train(job: Job, recorder: Recorder, progress: Progress, stop: Stop) -> bool:
    """The loop. Returns whether it was asked to stop before its end."""
    config, placement, theta = job.config, job.placement, job.model.theta
    generator = config.weight_generator
    whole = placement.group_size > 1 and (config.epochs > 1 or config.maml.clip is not None or generator.needs_gram)
    gathers = config.exchange == "gather" or generator.needs_gram
    exchange = Exchange(job.comm, placement, generator, gathers, whole)
    group_sum = job.comm.split(placement.hosted[0]).tensor_sum if whole else None
    memory, runs = recorder.memory, range(recorder.first_run, config.runs)
    exchange_s = validation_s = 0.0
    # Set-up may take long: was a stop asked for in the meantime?
    stopped = bool(runs) and any(job.comm.all_gather_objects(stop.asked()))

    for run in runs:
        if stopped:
            break
        start = time.perf_counter()
        with stop.saving(recorder.save):
            results = [work(job.learner, theta, run, worker, placement, group_sum) for worker in placement.hosted]
        work_s = time.perf_counter() - start

        checked = config.check_every > 0 and run % config.check_every == 0
        digest = float(zlib.crc32(theta.cpu().numpy().tobytes())) if checked else 0.0
        timing = RankReport(work_s, float(stop.asked()), digest, exchange_s, exchange.wait_s, validation_s)
        reports = exchange.report([report for _, report in results], timing)
        check_digests(reports.ranks[:, RankReport._fields.index("digest")], run)
        losses = np.where(reports.finite, reports.loss, np.nan)
        memory = np.vstack([memory, losses])[-generator.memory_length :]
        start = time.perf_counter()
        weights, update = exchange.combine([update for update, _ in results], memory, reports.finite)
        if update is not None:
            job.model.step(update.to(theta.device), config.schedule.factor(run))
        exchange.share(job.model)
        exchange_s = time.perf_counter() - start

        validation, validation_s = None, 0.0
        if is_due(run, config.validation.every, config.runs):
            start = time.perf_counter()
            key = (Purpose.VALIDATION, 0 if config.validation.fixed else run)
            settings = config.validation
            validation = validate(job.learner, theta, job.comm, "validation", key, settings.tasks, settings.steps)
            validation_s = time.perf_counter() - start

        recorder.record(run, reports, weights, memory, validation)
        progress.show(run, reports, validation)
        stopped = bool(reports.ranks[:, RankReport._fields.index("stop")].any()) and run + 1 < config.runs
    recorder.complete_times(job.comm.gather(np.array([exchange_s, exchange.wait_s, validation_s])))
    return stopped


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
