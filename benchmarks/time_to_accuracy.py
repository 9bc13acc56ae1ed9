"""Training time until a target accuracy on Omniglot 5-way 1-shot: ours, and the same training by a plain autograd loop.

    mpirun -n 2 python benchmarks/time_to_accuracy.py --root data/omniglot [--accuracy 0.95] [--lr 0.001]

Both start from the same parameters, and use the same tasks (32 a run, spread over the ranks) and the same Adam; both
gradients are exact, so that the parameters agree up to rounding. Every 25 runs both are validated on the same 100
held-out tasks, with 3 inner steps, outside the timing; the mean of the last three validations has to reach the target.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from meta_gradient import CASES, plain_loop
from torch import Tensor, nn

from hpc_dmaml.communicator import Communicator, connect
from hpc_dmaml.config import parse
from hpc_dmaml.meta_model import MetaModel
from hpc_dmaml.parameters import Layout, flatten
from hpc_dmaml.placement import share
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.setup import load_task, make_learner, use_device
from hpc_dmaml.start import build_module
from hpc_dmaml.tasks import Batch, TaskBatch
from hpc_dmaml.validation import validate
from hpc_dmaml.worker import Learner

Gradient = Callable[[Learner, nn.Module, Tensor, Batch], Tensor]


def ours(learner: Learner, module: nn.Module, theta: Tensor, batch: Batch) -> Tensor:
    return learner.config.algorithm.update(learner.engine, theta, batch, run=0).gradient


def plain(learner: Learner, module: nn.Module, theta: Tensor, batch: Batch) -> Tensor:
    case = next(case for case in CASES if case.name == "5w1s")
    with torch.no_grad():
        for name, values in Layout.of(module).views(theta).items():
            module.get_parameter(name).copy_(values)
    assert isinstance(batch, TaskBatch)
    return plain_loop(case, module, batch)


def seconds_to(learner: Learner, comm: Communicator, gradient: Gradient, target: float) -> tuple[float, int, float]:
    """Training seconds and runs until the target is reached, and the mean accuracy of the last three validations."""
    config, tasks = learner.config, learner.config.tasks
    module = build_module(config, learner.sampler.sample_shape, learner.sampler.outputs)
    model, trained_s, accuracies = MetaModel(flatten(module), config.optimizer), 0.0, []
    mine = share(tasks, comm.rank, comm.size)
    for run in range(config.runs):
        start = time.perf_counter()
        batch = learner.sampler.sample("train", generator(config.seed, Purpose.TRAINING, run), tasks, mine)
        total = comm.tensor_sum(gradient(learner, module, model.theta, batch))
        model.step(total / tasks)
        trained_s += time.perf_counter() - start
        if (run + 1) % 25 == 0:
            key = (Purpose.VALIDATION, 0)
            _, accuracy = validate(learner, model.theta, comm, "validation", key, 100, 3)
            accuracies.append(accuracy[-1].mean())
            reached = float(np.mean(accuracies[-3:]))
            if len(accuracies) >= 3 and reached >= target:
                break
    return trained_s, run + 1, reached


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", default="data/omniglot", help="folder of Omniglot")
    parser.add_argument("--accuracy", type=float, default=0.95)
    parser.add_argument("--lr", default="0.001", help="outer learning rate")
    given = parser.parse_args()
    comm = connect()
    config = parse(["--config", "omniglot_5w1s", "--task.root", given.root, "--optimizer.lr", given.lr])
    sampler, _ = load_task(config.task, comm, comm.split_node())
    device = use_device(config, comm, comm.split_node())
    module = build_module(config, sampler.sample_shape, sampler.outputs)
    learner = make_learner(config, sampler, module, device)
    results = {}
    for name, gradient in (("ours", ours), ("plain loop", plain)):
        results[name] = seconds_to(learner, comm, gradient, given.accuracy)
        if comm.rank == 0:
            seconds, runs, accuracy = results[name]
            print(
                f"{name:<12}{seconds:7.1f} s, {runs} runs, {1e3 * seconds / runs:.0f} ms a run, accuracy {accuracy:.3f}"
            )
    if comm.rank == 0:
        print(f"ours / plain loop: {results['ours'][0] / results['plain loop'][0]:.2f}")


if __name__ == "__main__":
    main()
