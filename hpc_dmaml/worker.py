"""A worker: takes θ, makes `epochs` MAML steps on tasks of its own, and gives its update and how well it did."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from hpc_dmaml.config import RunConfig
from hpc_dmaml.engine import InnerLoop, Objective, meta_gradient
from hpc_dmaml.placement import Placement
from hpc_dmaml.tasks import TaskSampler
from hpc_dmaml.training_tasks import TrainingTasks


@dataclass(frozen=True)
class Learner:
    """What it takes to learn: tasks to draw, an objective to differentiate, and how."""

    config: RunConfig
    sampler: TaskSampler
    training: TrainingTasks
    objective: Objective
    chunk: int
    warnings: tuple[str, ...] = ()
    """What its trial brought to light."""

    @cached_property
    def inner(self) -> InnerLoop:
        maml = self.config.maml
        return InnerLoop(maml.inner_lr, maml.inner_steps, maml.first_order, self.config.keep)


class Report(NamedTuple):
    """How a worker's tasks on this rank went in a run, as sums, so that the ranks of a group can be added up."""

    loss: float
    accuracy: float
    tasks: float
    not_finite: float
    """1 if the loss or the update is not finite; the update is then 0."""
    work_s: float


def work(
    learner: Learner,
    theta: Tensor,
    run: int,
    worker: int,
    placement: Placement,
    group_sum: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, Report]:
    """One worker's run from θ (P,): its update (P,) and its report, or this rank's part of them.

    The update is Σ_e g^(e) over the epochs e, while the worker walks θ ← θ − local_lr · g^(e), local_lr by the schedule.
    `group_sum` adds a tensor
    up over the ranks of the worker's group; with None a rank's part of the gradient stays a part.
    """
    config, start = learner.config, time.perf_counter()
    part, factor = placement.share(config.tasks), config.schedule.factor(run)
    total, losses, accuracies = None, [], []
    for epoch in range(config.epochs):
        batch = learner.training.batch(run, worker, epoch, part, theta)
        result = meta_gradient(learner.objective, theta, batch, learner.inner, learner.chunk)
        gradient = result.gradient
        if config.maml.task_reduction == "mean":
            gradient = gradient / config.tasks
        if group_sum is not None:
            gradient = group_sum(gradient)
        if config.maml.clip is not None:
            gradient = gradient.clamp(-config.maml.clip, config.maml.clip)
        total = gradient if total is None else total + gradient
        if config.worker_lr is not None and epoch + 1 < config.epochs:
            theta = theta - factor * config.worker_lr * gradient
        losses.append(result.losses)
        accuracies.append(result.accuracies)
    assert total is not None  # a configuration has at least one epoch
    loss, accuracy = (sum(each.sum(dtype=torch.float64).item() for each in of) for of in (losses, accuracies))
    finite = math.isfinite(loss) and math.isfinite(total.sum().item())  # a number that is not makes the sum so
    if not finite:
        total.zero_()
    tasks = config.epochs * (part.stop - part.start)
    return total, Report(loss, accuracy, tasks, float(not finite), time.perf_counter() - start)
