"""What weight generators do when one worker learns from wrong labels.

    python examples/wrong_labels.py                                   sine waves, half an hour
    python examples/wrong_labels.py --config glyphs --runs 300        printed letters, hours

Eight workers learn. In the last one's query sets the labels are wrong: every class is called the next one, every value has
the other sign; so its meta-gradients teach the wrong thing. The table gives the loss (or the accuracy) on 500 held-out
tasks after adaptation, for every weight generator, beside the same with right labels everywhere.

It is also an example of the library without the command: a DMAML loop in one function.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch

from hpc_dmaml import console
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import parse
from hpc_dmaml.engine.allocator import keep_freed_memory
from hpc_dmaml.meta_model import MetaModel
from hpc_dmaml.parameters import flatten
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.setup import load_task, make_learner
from hpc_dmaml.start import build_module
from hpc_dmaml.tasks import Batch, Samples, TaskBatch
from hpc_dmaml.validation import validate
from hpc_dmaml.weight_generators import (
    ArithmeticMean,
    GeometricMedian,
    GradientNorm,
    LossMedian,
    LossMovingAverage,
    LossWeighted,
    WeightGenerator,
    worker_weights,
)
from hpc_dmaml.worker import Learner

WORKERS, TASKS = 8, 8
GENERATORS = {
    type(generator).__name__: generator
    for generator in (
        ArithmeticMean(), LossMedian(), LossWeighted(), LossMovingAverage(), GradientNorm(), GeometricMedian(),
    )
}  # fmt: skip


def mislabelled(batch: Batch, learner: Learner) -> TaskBatch:
    """The same tasks with wrong query labels."""
    assert isinstance(batch, TaskBatch)
    x, y = batch.query_set
    classes = learner.loss.targets == "classes"
    return TaskBatch(batch.support_set, Samples(x, (y + 1) % learner.sampler.outputs if classes else -y))


def train(learner: Learner, weights_of: WeightGenerator, bad_workers: int) -> tuple[float, float]:
    """Final accuracy (loss in regression) on 500 held-out tasks after adaptation, and the bad workers' mean weight."""
    config = learner.config
    model = MetaModel(
        flatten(build_module(config, learner.sampler.sample_shape, learner.sampler.outputs)), config.optimizer
    )
    memory, bad_weight = np.empty((0, WORKERS)), 0.0
    for run in range(config.runs):
        updates, losses = [], []
        for worker in range(WORKERS):
            rng = generator(config.seed, Purpose.TRAINING, run, worker)
            batch = learner.sampler.sample("train", rng, TASKS)
            if worker >= WORKERS - bad_workers:
                batch = mislabelled(batch, learner)
            result = config.algorithm.update(learner.engine, model.theta, batch, run)
            updates.append(result.gradient / TASKS)
            losses.append(result.losses.mean().item())
        memory = np.vstack([memory, losses])[-weights_of.memory_length :]
        stacked = torch.stack(updates)
        gram = (stacked.double() @ stacked.double().T).numpy() if weights_of.needs_gram else None
        weights = worker_weights(weights_of, memory, np.isfinite(losses), gram)
        bad_weight += weights[WORKERS - bad_workers :].sum() / config.runs
        model.step(torch.from_numpy(weights).to(stacked.dtype) @ stacked)
    key, steps = (Purpose.VALIDATION, 0), getattr(config.algorithm, "inner_steps", 1)
    found = validate(learner, model.theta, Communicator(), "validation", key, 500, steps)
    return float((found.loss if learner.loss.metric is None else found.metric)[-1].mean()), bad_weight


def main() -> None:
    console.settle()
    parser = argparse.ArgumentParser(description="Weight generators with one worker on wrong labels.")
    parser.add_argument("--config", default="sinusoid", help="preset")
    parser.add_argument("--runs", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bad", type=int, default=1, help="workers on wrong labels")
    parser.add_argument("--generators", nargs="+", choices=list(GENERATORS), default=list(GENERATORS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| weight generator | all labels right | one worker wrong | weight of the wrong one |")
    print("| --- | --- | --- | --- |")
    for weights_of in (GENERATORS[name] for name in given.generators):
        cells = []
        for bad in (0, given.bad):
            results = []
            for seed in range(given.seeds):
                config = replace(parse(["--config", given.config]), seed=seed, runs=given.runs, tasks=TASKS)
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
