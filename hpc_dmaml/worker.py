"""A worker makes, from φ, `epochs` steps of the algorithm on tasks of its own, and returns its update and a report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hpc_dmaml.config import RunConfig
from hpc_dmaml.data_clock import data_time
from hpc_dmaml.engine import Engine
from hpc_dmaml.losses import Loss
from hpc_dmaml.optimizers import TRPO
from hpc_dmaml.own_optimizers import OwnOptimizer
from hpc_dmaml.placement import Placement
from hpc_dmaml.tasks import TaskSampler
from hpc_dmaml.training_tasks import TrainingTasks
from hpc_dmaml.trust_region import trust_region_step


@dataclass(frozen=True)
class Learner:
    """What a worker needs to learn: samplers of tasks, and the engine that differentiates."""

    config: RunConfig
    sampler: TaskSampler
    training: TrainingTasks
    engine: Engine
    warnings: tuple[str, ...] = ()
    """Warnings from the trial of the model."""

    @property
    def loss(self) -> Loss:
        return self.engine.objective.loss


class Report(NamedTuple):
    """Results of a worker's tasks on this rank in a run, as sums, to be added over the ranks of a group."""

    loss: float
    metric: float
    tasks: float
    not_finite: float
    """1 if the loss or the update is not finite; the update is then 0."""
    work_s: float


@torch.no_grad()
def work(
    learner: Learner,
    theta: Tensor,
    run: int,
    worker: int,
    placement: Placement,
    group_sum: Callable[[Tensor], Tensor] | None,
    own: OwnOptimizer | None = None,
) -> tuple[Tensor, Report]:
    """Do one worker's run from φ (P,). Returns its update (P,) and its report, or this rank's part of them.

    The update is Σ_e g^(e) over the epochs e, while the worker steps φ ← φ − local_lr · g^(e), local_lr by the
    schedule. With its `own` optimizer, the worker takes that optimizer's steps to φ_w, and the update is φ − φ_w.

    `group_sum` sums a tensor over the ranks of the worker's group; with None a rank keeps its part of the gradient.
    """
    config, start_s, start = learner.config, time.perf_counter(), theta
    part, factor = placement.share(config.tasks), config.schedule.factor(run)
    algorithm, local = config.algorithm, config.local_optimizer
    over_ranks = group_sum or (lambda each: each)
    total, losses, metrics = None, [], []
    if own is not None:
        own.begin(theta)
    for epoch in range(config.epochs):
        with data_time():
            batch = learner.training.batch(run, worker, epoch, part, theta)
        if isinstance(local, TRPO):
            mean = lambda each: over_ranks(each / config.tasks)  # noqa: E731
            theta, result = trust_region_step(local, algorithm, learner.engine, theta, batch, run, mean)
        else:
            result = algorithm.update(learner.engine, theta, batch, run)
            gradient = over_ranks(result.gradient / (config.tasks if config.task_reduction == "mean" else 1))
            if config.clip is not None:
                gradient = gradient.clamp(-config.clip, config.clip)
            if own is not None:
                theta = own.step(gradient, factor)
            else:
                total = gradient if total is None else total + gradient
                if config.worker_lr is not None and epoch + 1 < config.epochs:
                    theta = theta - factor * config.worker_lr * gradient
        losses.append(result.losses)
        metrics.append(result.metric)
    total = start - theta if total is None else total
    loss, metric = (sum(each.sum(dtype=torch.float64).item() for each in of) for of in (losses, metrics))
    finite = math.isfinite(loss) and math.isfinite(total.sum().item())  # any number that is not finite makes the sum so
    if not finite:
        total.zero_()
    tasks = config.epochs * (part.stop - part.start)
    return total, Report(loss, metric, tasks, float(not finite), time.perf_counter() - start_s)
