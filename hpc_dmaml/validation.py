"""How well the meta-model adapts: loss and metric on held-out tasks, before adaptation and after each step of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from hpc_dmaml.communicator import Communicator
from hpc_dmaml.engine import Parameters, chunks, learning_curve, tensors
from hpc_dmaml.placement import share
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.state import Validation
from hpc_dmaml.tasks import Batch, Samples, Split, TaskBatch
from hpc_dmaml.tasks.border import draw
from hpc_dmaml.tasks.rollouts import Watch
from hpc_dmaml.worker import Learner

BLOCK = 32
"""Tasks whose data is in memory at a time."""


def validate(
    learner: Learner,
    theta: Tensor,
    comm: Communicator,
    split: Split,
    key: tuple[Purpose, int],
    tasks: int,
    steps: int,
    watch: Watch | None = None,
    progress: Callable[[int], object] | None = None,
) -> Validation:
    """How held-out tasks go from φ (P,); the same on every rank, which share the tasks.

    `key` is that of the random draw: the same key gives the same tasks, on any number of ranks. `watch` is told of the
    trajectories that this rank's tasks are judged on, and `progress` now and then how many of the tasks are done, if the
    other ranks are as far as this one.
    """
    mine = share(tasks, comm.rank, comm.size)
    curves = np.zeros((2, steps + 1, tasks))
    for start in range(mine.start, mine.stop, BLOCK):
        part = slice(start, min(start + BLOCK, mine.stop))
        batch = draw(learner.sampler, split, generator(learner.config.seed, *key), tasks, part)
        batch = batch if watch is None else batch.watched(watch)
        curves[:, :, part] = [values.double().cpu().numpy() for values in curve(learner, theta, batch, steps)]
        if progress is not None:
            progress(tasks * (part.stop - mine.start) // (mine.stop - mine.start))
    comm.all_sum(curves)
    return Validation(*curves)


def curve(learner: Learner, theta: Tensor, batch: Batch, steps: int) -> tuple[Tensor, Tensor]:
    """Query losses and metrics of some tasks, each (steps + 1, B), before adaptation from φ (P,) and after each step."""
    engine, algorithm = learner.engine, learner.config.algorithm

    def of_part(theta: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        sx, sy, qx, qy = given
        return plain(theta, TaskBatch(Samples(sx, sy), Samples(qx, qy)))

    def plain(theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        def adaptation(parameters: Parameters, part: Batch) -> Iterator[Parameters]:
            return algorithm.adapt(engine.objective, theta, parameters, part, steps)

        return learning_curve(engine, theta[: engine.objective.layout.size], batch, adaptation)

    if engine.compiler is None:
        return plain(theta, batch)
    parts = [
        engine.compiler(("curve", steps), of_part, theta, *tensors(part)) for part in chunks(batch, engine.chunk, theta)
    ]
    losses, metrics = zip(*parts, strict=True)
    return torch.cat(losses, 1), torch.cat(metrics, 1)
