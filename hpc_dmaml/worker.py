"""A worker: takes θ, makes `epochs` MAML steps on tasks of its own, and gives its update and how well it did."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hpc_dmaml.config import RunConfig
from hpc_dmaml.engine import InnerLoop, Objective, meta_gradient
from hpc_dmaml.placement import Placement
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.tasks import TaskSampler


@dataclass(frozen=True)
class Learner:
    """What it takes to learn: tasks to draw, an objective to differentiate, and how."""

    config: RunConfig
    sampler: TaskSampler
    objective: Objective
    chunk: int

    @property
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

    The update is Σ_e g^(e) over the epochs e, while the worker walks θ ← θ − local_lr · g^(e). `group_sum` adds a tensor
    up over the ranks of the worker's group; with None a rank's part of the gradient stays a part.
    """
    config, start = learner.config, time.perf_counter()
    total = torch.zeros_like(theta)
    losses, accuracies = [], []
    for epoch in range(config.epochs):
        rng = generator(config.seed, Purpose.TRAINING, run, worker, epoch)
        batch = learner.sampler.sample("train", rng, config.tasks, placement.share(config.tasks))
        result = meta_gradient(learner.objective, theta, batch, learner.inner, learner.chunk)
        gradient = result.gradient
        if config.maml.task_reduction == "mean":
            gradient = gradient / config.tasks
        if group_sum is not None:
            gradient = group_sum(gradient)
        if config.maml.clip is not None:
            gradient = gradient.clamp(-config.maml.clip, config.maml.clip)
        total += gradient
        if config.worker_lr is not None and epoch + 1 < config.epochs:
            theta = theta - config.worker_lr * gradient
        losses.append(result.losses)
        accuracies.append(result.accuracies)
    loss, accuracy = (torch.cat(parts).double().sum().item() for parts in (losses, accuracies))
    finite = math.isfinite(loss) and math.isfinite(total.sum().item())  # a number that is not makes the sum so
    if not finite:
        total.zero_()
    return total, Report(loss, accuracy, sum(map(len, losses)), float(not finite), time.perf_counter() - start)
