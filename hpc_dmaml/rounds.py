"""One round: workers work, ranks report, updates are combined, θ steps and is shared, held-out tasks are evaluated."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hpc_dmaml.data_clock import taken_s
from hpc_dmaml.exchange import Exchange, RankReport, Reports
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.setup import Job
from hpc_dmaml.state import Validation
from hpc_dmaml.stopping import Stop
from hpc_dmaml.tasks.border import draw
from hpc_dmaml.tasks.navigation import Plane, Points
from hpc_dmaml.tasks.rollouts import Watch, positions
from hpc_dmaml.validation import validate
from hpc_dmaml.worker import work

PICTURED_TASKS = 4
"""Number of held-out tasks whose trajectories a file keeps."""


class Round(NamedTuple):
    """The results of one round."""

    run: int
    reports: Reports
    weights: np.ndarray
    """λ (W,)"""
    validation: Validation | None
    writes: bool
    """Whether the file is replaced after it."""


class Rounds:
    """Makes one round after another: work, report, combine, step, share, validate."""

    def __init__(self, job: Job, stop: Stop, save: Callable[[], object], writes: Callable[[int], bool]) -> None:
        """`save` may be called by a signal handler while the workers work; `writes`: whether to write after a run."""
        config, placement = job.config, job.placement
        self.job, self.stop, self.save, self.writes = job, stop, save, writes
        generator, is_group = config.weight_generator, placement.group_size > 1
        gathers = config.exchange == "gather" or generator.needs_gram
        walks = config.epochs > 1 or config.local_optimizer is not None
        whole = is_group and (walks or config.clip is not None or generator.needs_gram)
        self.exchange = Exchange(job.comm, placement, generator, gathers, whole)
        self.group_sum = job.comm.split(placement.hosted[0]).tensor_sum if whole else None
        self.exchange_s = self.validation_s = 0.0

    def one(self) -> Round:
        """Do the next round. Raises FloatingPointError, on every rank, where no worker's update is usable; the state is
        then the one before the round."""
        job, state, exchange = self.job, self.job.state, self.exchange
        config, run = job.config, state.run
        updates, reports = self.work_and_report()
        check_digests(reports.of("digest"), run)
        state.own.undo(reports.finite)

        start = time.perf_counter()
        losses = np.where(reports.finite, reports.loss, np.nan)
        memory = np.vstack([state.memory, losses])[-config.weight_generator.memory_length :]
        before = state.model.copied()
        try:
            weights, update = exchange.combine(updates, memory, reports.finite)
            if update is not None:
                state.model.step(update.to(state.model.theta.device), config.schedule.factor(run))
            exchange.share(state.model)
            total = state.model.theta.sum(dtype=torch.float64)  # not finite if any is not, and cheaper than to ask each
            if not math.isfinite(total):
                raise FloatingPointError(f"run {run}: the step of {config.optimizer} is not finite. Lower optimizer.lr")
        except FloatingPointError:
            state.model.restore(before)
            state.own.undo(np.zeros_like(reports.finite))
            raise
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
        """The updates of this rank's workers, and the reports of all workers and ranks."""
        job, run, theta = self.job, self.job.state.run, self.job.state.model.theta
        taken_s()  # discards the time of validation
        start = time.perf_counter()
        with self.stop.saving(self.save):
            results = [
                work(
                    job.learner, theta, run, worker, job.placement, self.group_sum, job.state.own.by_worker.get(worker)
                )
                for worker in job.placement.hosted
            ]
        work_s = time.perf_counter() - start
        every = job.config.check_every
        digest = float(zlib.crc32(theta.cpu().numpy().tobytes())) if every and run % every == 0 else 0.0
        stops, writes = float(self.stop.asked()), float(self.writes(run))
        report = RankReport(work_s, taken_s(), stops, writes, digest, *self.times())
        return [update for update, _ in results], self.exchange.report([r for _, r in results], report)

    def times(self) -> tuple[float, float, float]:
        """The last round's `results.RANK_TIMES`, which a rank only knows when the round is over."""
        return self.exchange_s, self.exchange.wait_s, self.validation_s


def validate_now(job: Job, run: int) -> Validation:
    """Validate on held-out tasks, the same each time or drawn for this run; in a plane, keep some trajectories."""
    settings = job.config.validation
    key = (Purpose.VALIDATION, 0 if settings.fixed else run)
    watch = Watch(positions) if isinstance(job.config.task, Plane) else None
    learner, theta = job.learner, job.state.model.theta
    found = validate(learner, theta, job.comm, "validation", key, settings.tasks, settings.steps, watch)
    if watch is not None:
        part = slice(0, min(PICTURED_TASKS, settings.tasks))
        few = draw(learner.sampler, "validation", generator(learner.config.seed, *key), settings.tasks, part)
        assert isinstance(few, Points)
        job.state.trajectories = few.pictured(watch.gathered(job.comm, few.keys))
    return found


def is_due(run: int, every: int, runs: int) -> bool:
    """Whether validation follows this run: after every `every` runs, and after the last."""
    return every > 0 and ((run + 1) % every == 0 or run + 1 == runs)


def check_digests(digests: np.ndarray, run: int) -> None:
    """Raise RuntimeError if the ranks' parameters are not the same."""
    if len(set(digests.tolist())) > 1:
        other = int(np.argmax(digests != digests[0]))
        raise RuntimeError(
            f"run {run}: rank {other} has other parameters than rank 0. Nodes with different processors or libraries "
            "can round differently: use --exchange gather, which broadcasts the parameters"
        )
