"""Validation of the meta-model: loss and metric on held-out tasks, before adaptation and after each step of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from hpc_dmaml.communicator import Communicator
from hpc_dmaml.engine import Objective, Parameters, acting, chunks, compiled_parts, for_tasks, learning_curve
from hpc_dmaml.placement import share
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.state import Validation
from hpc_dmaml.tasks import Batch, Split, TaskBatch
from hpc_dmaml.tasks.border import draw
from hpc_dmaml.tasks.rollouts import Watch
from hpc_dmaml.worker import Learner

BLOCK = 32
"""Number of tasks whose data is in memory at a time."""


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
    inductive: bool = False,
) -> Validation:
    """Evaluate φ (P,) on held-out tasks, which the ranks share. The result is the same on every rank.

    For supervised tasks also several φ (k, P), see `prediction_curve`, and, `inductive`, one query at a time.

    `key` is that of the random draw: the same key gives the same tasks, on any number of ranks. `watch` receives the
    trajectories by which this rank's tasks are judged, and `progress` now and then the number of tasks that are done if
    the other ranks are as far as this one.
    """
    mine = share(tasks, comm.rank, comm.size)
    curves = np.zeros((2, steps + 1, tasks))
    for start in range(mine.start, mine.stop, BLOCK):
        part = slice(start, min(start + BLOCK, mine.stop))
        batch = draw(learner.sampler, split, generator(learner.config.seed, *key), tasks, part)
        batch = batch if watch is None else batch.watched(watch)
        if theta.dim() == 1 and not inductive:
            found = curve(learner, theta, batch, steps)
        else:
            found = prediction_curve(learner, theta.reshape(-1, theta.shape[-1]), batch, steps, inductive)
        curves[:, :, part] = [values.double().cpu().numpy() for values in found]
        if progress is not None:
            progress(tasks * (part.stop - mine.start) // (mine.stop - mine.start))
    comm.all_sum(curves)
    return Validation(*curves)


def curve(learner: Learner, theta: Tensor, batch: Batch, steps: int) -> tuple[Tensor, Tensor]:
    """Query losses and metrics of some tasks, each (steps + 1, B), before adaptation from φ (P,) and after each step."""
    engine, algorithm = learner.engine, learner.config.algorithm

    def plain(batch: Batch, theta: Tensor) -> tuple[Tensor, Tensor]:
        def adaptation(parameters: Parameters, part: Batch) -> Iterator[Parameters]:
            return algorithm.adapt(engine.objective, theta, parameters, part, steps)

        return learning_curve(engine, theta[: engine.objective.layout.size], batch, adaptation)

    if engine.compiler is None:
        return plain(batch, theta)
    parts = compiled_parts(engine.compiler, ("curve", steps), plain, batch, engine.chunk, theta)
    losses, metrics = zip(*parts, strict=True)
    return torch.cat(losses, 1), torch.cat(metrics, 1)


@torch.no_grad()
def prediction_curve(
    learner: Learner, thetas: Tensor, batch: Batch, steps: int, inductive: bool
) -> tuple[Tensor, Tensor]:
    """Query losses and metrics, each (steps + 1, B), of the mean prediction of several φ (k, P).

    Each φ is adapted separately, and the mean is taken of their class probabilities, or of their outputs in regression,
    as of the best checkpoints in MAML++ (Antoniou et al., 2019). The loss is that of the mean, not the mean loss.
    """
    engine, algorithm = learner.engine, learner.config.algorithm
    objective, loss = engine.objective, engine.objective.loss

    def predict(parameters: Parameters, tasks: TaskBatch) -> Tensor:
        if inductive:
            return one_query_at_a_time(objective, parameters, tasks)
        return objective.outputs(parameters, tasks.query(acting(objective, parameters)).x)

    curves = []
    for part in chunks(batch, engine.chunk, thetas):
        assert isinstance(part, TaskBatch)
        starts = [for_tasks(objective.unflatten(phi[: objective.layout.size], 1), len(part)) for phi in thetas]
        walks = [algorithm.adapt(objective, *each, part, steps) for each in zip(thetas, starts, strict=True)]
        of_part = []
        for adapted in zip(*walks, strict=True):
            z = loss.mean_prediction(torch.stack([predict(each, part) for each in adapted]))
            y = part.query(acting(objective, adapted[0])).y
            of_part.append(torch.stack([loss.reported(loss.value(z, y), z, y), loss.measure(z, y)]))
        curves.append(torch.stack(of_part, 1))
    losses, metrics = torch.cat(curves, 2)
    return losses, metrics


def one_query_at_a_time(objective: Objective, parameters: Parameters, batch: TaskBatch) -> Tensor:
    """Outputs (B, n, C) for the n queries, each predicted without the others: the inductive setting.

    Batch norm takes its statistics over the support set and the one query, as Nichol et al. (2018) do where they are not
    transductive. Those of the query alone would make it an instance norm, which the model was not trained with (on the
    effect of such choices: Bronskill et al., 2020); and a single vector has no variance.
    """
    act = acting(objective, parameters)
    support, queries = batch.support(0, act).x, batch.query(act).x
    each = (torch.cat([support, query], 1) for query in queries.split(1, 1))
    return torch.cat([objective.outputs(parameters, x)[:, -1:] for x in each], 1)
