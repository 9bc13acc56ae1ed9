"""What weight generators do when one worker learns from wrong labels.

    python examples/wrong_labels.py [--runs 300] [--seeds 3] [--bad 1]

Four workers learn printed letters (Glyphs, 5-way 1-shot, 8 tasks each a run). In the last one's query sets every label is
the next class's: its meta-gradients teach the wrong thing. The table gives the accuracy on held-out tasks at the end, for
every weight generator, beside the same with right labels everywhere.

It is also an example of the library without the command: a DMAML loop in one function.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import Maml, RunConfig
from hpc_dmaml.engine import meta_gradient
from hpc_dmaml.engine.allocator import keep_freed_memory
from hpc_dmaml.outer import MetaModel
from hpc_dmaml.parameters import flatten
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.setup import build_module, load_task, make_learner
from hpc_dmaml.tasks import Samples, TaskBatch
from hpc_dmaml.validation import validate
from hpc_dmaml.weight_generators import (
    ArithmeticMean,
    GeometricMedian,
    GradientAgreement,
    LossMedian,
    LossMovingAverage,
    LossWeighted,
    WeightGenerator,
    worker_weights,
)
from hpc_dmaml.worker import Learner

WORKERS, TASKS = 4, 8
GENERATORS = (
    ArithmeticMean(), LossMedian(), LossWeighted(), LossMovingAverage(), GradientAgreement(), GeometricMedian(),
)  # fmt: skip


def mislabelled(batch: TaskBatch, ways: int) -> TaskBatch:
    """The same tasks with every query sample labelled as the next class."""
    x, y = batch.held_query
    return TaskBatch(batch.support, Samples(x, (y + 1) % ways))


def train(learner: Learner, weights_of: WeightGenerator, bad_workers: int) -> tuple[float, float]:
    """Final accuracy on 200 held-out tasks after three adaptation steps, and the bad workers' mean weight."""
    config = learner.config
    model = MetaModel(flatten(build_module(config, learner.sampler.sample_shape, 5)), config.optimizer)
    memory, bad_weight = np.empty((0, WORKERS)), 0.0
    for run in range(config.runs):
        updates, losses = [], []
        for worker in range(WORKERS):
            rng = generator(config.seed, Purpose.TRAINING, run, worker)
            batch = learner.sampler.sample("train", rng, TASKS)
            if worker >= WORKERS - bad_workers:
                batch = mislabelled(batch, learner.sampler.outputs)
            result = meta_gradient(learner.objective, model.theta, batch, learner.inner, learner.chunk)
            updates.append(result.gradient / TASKS)
            losses.append(result.losses.mean().item())
        memory = np.vstack([memory, losses])[-weights_of.memory_length :]
        stacked = torch.stack(updates)
        gram = (stacked.double() @ stacked.double().T).numpy() if weights_of.needs_gram else None
        weights = worker_weights(weights_of, memory, np.isfinite(losses), gram)
        bad_weight += weights[WORKERS - bad_workers :].sum() / config.runs
        model.step(torch.from_numpy(weights).to(stacked.dtype) @ stacked)
    _, accuracy = validate(learner, model.theta, Communicator(), "validation", (Purpose.VALIDATION, 0), 200, 3)
    return float(accuracy[-1].mean()), bad_weight


def main() -> None:
    parser = argparse.ArgumentParser(description="Weight generators with one worker on wrong labels.")
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bad", type=int, default=1, help="workers on wrong labels")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| weight generator | all labels right | one worker wrong | weight of the wrong one |")
    print("| --- | --- | --- | --- |")
    for weights_of in GENERATORS:
        cells = []
        for bad in (0, given.bad):
            results = []
            for seed in range(given.seeds):
                config = RunConfig(seed=seed, runs=given.runs, tasks=TASKS, maml=Maml(inner_lr=0.4))
                sampler = load_task(config.task, Communicator(), Communicator())
                module = build_module(config, sampler.sample_shape, sampler.outputs)
                learner = make_learner(config, sampler, module, torch.device("cpu"))
                results.append(train(learner, weights_of, bad))
            accuracy, weight = np.array(results).T
            spread = f" ± {accuracy.std(ddof=1):.3f}" if given.seeds > 1 else ""
            cells.append(f"{accuracy.mean():.3f}{spread}")
        print(f"| {type(weights_of).__name__} | {cells[0]} | {cells[1]} | {weight.mean():.2f} |", flush=True)


if __name__ == "__main__":
    main()
