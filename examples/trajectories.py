"""Plot a policy's trajectories on held-out tasks of navigation, before adaptation and after each inner step.

    python examples/trajectories.py results/n.h5 [--tasks 4] [--steps 3] [--output trajectories.png]

`results/n.h5` is the file of a job with `--config navigation`, or with `--task Court`. Each row is a task: the cross is
its goal, the dot its start, the number above the mean return. It is also an example of how to use a trained policy.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from hpc_dmaml import console, load
from hpc_dmaml.engine import acting, objective_for
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.tasks.navigation import Plane, Points
from hpc_dmaml.tasks.rollouts import QUERY
from hpc_dmaml.trained_model import TrainedModel


def walks(model: TrainedModel, batch: Points, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield positions (B, N, T, 2) and returns (B,), before adaptation and after each inner step."""
    objective = objective_for(model.module, model.sample_shape, model.loss, model.layout, model.layerwise)
    start = objective.unflatten(model.phi[: model.layout.size], len(batch))
    for parameters in model.config.algorithm.adapt(objective, model.phi, start, batch, steps):
        walked = batch.walk(QUERY, acting(objective, parameters))
        assert walked.positions is not None
        yield walked.positions, walked.rewards.sum(-1).mean(-1)


def main() -> None:
    console.settle()
    parser = argparse.ArgumentParser(description="Trajectories of a policy, before and after adaptation.")
    parser.add_argument("file", help="result file of a navigation job")
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--steps", type=int, help="default: those of validation")
    parser.add_argument("--output", default="trajectories.png")
    given = parser.parse_args()
    model = load(given.file)
    family, steps = model.config.task, model.config.validation.steps if given.steps is None else given.steps
    if not isinstance(family, Plane):
        parser.error(f"{given.file} was trained on {type(family).__name__}, which has no positions to draw")
    drawn = family.sample("test", generator(0, Purpose.EVALUATION, 0), given.tasks)
    batch = drawn.to(torch.device("cpu"), model.phi.dtype)
    figure, axes = plt.subplots(
        given.tasks, steps + 1, figsize=(2.2 * (steps + 1), 2.2 * given.tasks), sharex=True, sharey=True, squeeze=False
    )
    for column, (positions, returns) in enumerate(walks(model, batch, steps)):
        axes[0, column].set_title(f"step {column}" if column else "before adaptation", fontsize=9, pad=16)
        for axis, path, goal, value in zip(axes[:, column], positions, batch.goals, returns, strict=True):
            for one in path:
                axis.plot(*one.T, color="tab:blue", alpha=0.4, linewidth=0.8)
            axis.plot(*path[0, 0], "o", color="black", markersize=4)
            axis.plot(*goal, "x", color="tab:red", markersize=8, markeredgewidth=2)
            axis.set_title(f"{axis.get_title()}\n{value:.1f}".strip(), fontsize=9)
            axis.set_aspect("equal")
    figure.tight_layout()
    figure.savefig(given.output, dpi=120)
    print(given.output)


if __name__ == "__main__":
    main()
