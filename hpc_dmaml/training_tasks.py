"""The workers' training tasks: each run, worker and epoch has its own, no matter which rank draws them, and when."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from hpc_dmaml.config import RunConfig
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.tasks import Batch, Samples, TaskBatch, TaskSampler
from hpc_dmaml.tasks.border import draw


class TrainingTasks:
    """Draws the tasks of `sampler.block_runs` runs at once.

    This saves time where a draw has more overhead than work: 25 sine waves, whose meta-gradient takes 900 µs, take 90
    µs alone and 25 µs as one of 16 runs.
    """

    def __init__(self, sampler: TaskSampler, config: RunConfig) -> None:
        self._sampler, self._block_runs = sampler, sampler.block_runs
        self._seed, self._tasks, self._workers = config.seed, config.tasks, config.workers or 1
        self._unlike = config.heterogeneity
        self._shares: dict[int, TaskSampler] = {}
        self._drawn: dict[tuple[int, int], tuple[int, Batch]] = {}

    def check(self) -> None:
        """Raise ValueError where the configured heterogeneity is not possible."""
        if self._unlike.noisy_workers > self._workers:
            count = f"at most {self._workers}, the number of workers, not {self._unlike.noisy_workers}"
            raise ValueError(f"heterogeneity.noisy_workers must be {count}")
        tried = self._workers if self._unlike.own_tasks else min(1, self._unlike.noisy_workers)
        for worker in range(self._workers - tried, self._workers):  # the last ones are those with wrong labels
            self._draw(slice(None), 1, 0, worker, 0)

    def batch(self, run: int, worker: int, epoch: int, part: slice, theta: Tensor) -> Batch:
        """`part` of the tasks of a run, worker and epoch; those drawn as a block are already on θ's device."""
        runs, tasks = self._block_runs, self._tasks
        block, place = divmod(run, runs)
        drawn, batch = self._drawn.get((worker, epoch), (None, None))
        if batch is None or drawn != block:
            if runs == 1:
                return self._draw(part, tasks, run, worker, epoch)
            batch = self._draw(slice(None), runs * tasks, block, worker, epoch).to(theta.device, theta.dtype)
            self._drawn[worker, epoch] = block, batch
        return batch.part(slice(place * tasks + part.start, place * tasks + part.stop))

    def _draw(self, part: slice, tasks: int, block: int, worker: int, epoch: int) -> Batch:
        """Draw `part` of the `tasks` tasks of a block, worker and epoch, with this worker's label noise."""
        place = (block, worker, epoch)
        batch = draw(self._of(worker), "train", generator(self._seed, Purpose.TRAINING, *place), tasks, part)
        if worker < self._workers - self._unlike.noisy_workers:
            return batch
        if not isinstance(batch, TaskBatch):
            kind = type(self._sampler).__name__
            raise ValueError(f"heterogeneity.noisy_workers must be 0 where tasks have no labels, as those of {kind}")
        rng, share = generator(self._seed, Purpose.LABEL_NOISE, *place), self._unlike.label_noise
        support, query = (
            mislabelled(samples, rng, tasks, part, share) for samples in (batch.support_set, batch.query_set)
        )
        return replace(batch, support_set=support, query_set=query)

    def _of(self, worker: int) -> TaskSampler:
        if not self._unlike.own_tasks:
            return self._sampler
        share = getattr(self._sampler, "share", None)
        if share is None:
            kind = type(self._sampler).__name__
            raise ValueError(f"heterogeneity.own_tasks needs tasks that can be shared out: {kind} has no method share")
        if worker not in self._shares:
            self._shares[worker] = share(worker, self._workers)
        return self._shares[worker]


def mislabelled(samples: Samples, rng: np.random.Generator, tasks: int, part: slice, share: float) -> Samples:
    """Replace each label, with probability `share`, by that of another sample of its task.

    `rng` draws for all of `tasks` tasks, of which `samples` are a `part`. Raises ValueError where there is no other.
    """
    y = np.asarray(samples.y)
    own = np.arange(y.shape[1])
    if len(own) < 2:
        raise ValueError("heterogeneity.noisy_workers must be 0 where a support or query set is a single sample")
    others = own + rng.integers(1, len(own), (tasks, len(own)))
    wrong = rng.random(others.shape) < share
    taken = np.where(wrong, others % len(own), own)[part]
    return Samples(samples.x, np.take_along_axis(y, taken.reshape(*taken.shape, *[1] * (y.ndim - 2)), axis=1))
