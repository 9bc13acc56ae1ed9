"""Time of one run of a reinforcement-learning job on one core, and its parts.

    python benchmarks/reinforcement_learning.py                            navigation: 20 tasks of 20 trajectories of 100 steps
    python benchmarks/reinforcement_learning.py --config navigation_trpo --config half_cheetah_direction

Each preset runs with layerwise derivatives and with autograd in turn, on the same tasks with the same keys. The table
(Markdown) shows medians: the time of a worker's whole run, environment steps per second (without steps after the end of
a trajectory), sampling's share of the time, and the relative difference of the two updates.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch

from hpc_dmaml.config import parse
from hpc_dmaml.engine import objective_for
from hpc_dmaml.engine.allocator import keep_freed_memory
from hpc_dmaml.placement import Placement
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.setup import make_learner
from hpc_dmaml.start import beginning, build_module
from hpc_dmaml.tasks.rollouts import Trajectories, TrajectoryBatch
from hpc_dmaml.worker import Learner, work


@dataclass
class Sampling:
    """Time of sampling, and the number of steps sampled."""

    seconds: float = 0.0
    steps: float = 0.0


@dataclass
class Measured:
    """A learner with one kind of derivatives, and the timings of its runs."""

    learner: Learner
    seconds: list[float] = field(default_factory=list)
    sampling: list[Sampling] = field(default_factory=list)
    update: torch.Tensor | None = None

    def row(self, name: str, peer: Measured) -> list[str]:
        run = statistics.median(self.seconds)
        sampling = statistics.median(s.seconds / r for s, r in zip(self.sampling, self.seconds, strict=True))
        speed = statistics.median(s.steps / r for s, r in zip(self.sampling, self.seconds, strict=True))
        assert self.update is not None
        assert peer.update is not None
        away = ((self.update - peer.update).norm() / peer.update.norm()).item()
        derivatives = self.learner.engine.objective.derivatives
        return [name, derivatives, f"{run:.3f}", f"{speed:,.0f}", f"{sampling:.0%}", f"{away:.0e}"]


def timed(kind: type[TrajectoryBatch], sampling: Sampling) -> AbstractContextManager[object]:
    """Record in `sampling` what batches of this kind sample within the context."""
    walk = kind.walk

    def walked(*arguments: Any) -> Trajectories:
        start = time.perf_counter()
        found = walk(*arguments)
        sampling.seconds += time.perf_counter() - start
        sampling.steps += found.made.sum().item()
        return found

    return patch.object(kind, "walk", walked)


def measure(name: str, options: list[str], seconds: float) -> list[list[str]]:
    """The table's rows for a preset, with each kind of derivatives."""
    config = parse(["--config", name, *options])
    sampler = config.task.load()
    module = build_module(config, sampler.sample_shape, sampler.outputs)
    learner = make_learner(config, sampler, module, torch.device("cpu"))
    objective = learner.engine.objective
    general = objective_for(module, sampler.sample_shape, objective.loss, objective.layout, layerwise=False)
    ways = [
        Measured(learner),
        Measured(replace(learner, engine=learner.engine._replace(objective=general))),
    ]
    batch = sampler.sample("train", generator(0, Purpose.TRAINING), 1)
    if not isinstance(batch, TrajectoryBatch):
        raise SystemExit(f"--config {name}: its tasks have no trajectories")
    phi, alone = beginning(config.algorithm, objective.layout, module), Placement(1, 1, 0)
    end, run = time.perf_counter() + seconds, 0
    while run < 3 or time.perf_counter() < end:
        for way in ways:
            sampling, start = Sampling(), time.perf_counter()
            with timed(type(batch), sampling):
                update, _ = work(way.learner, phi, 0, 0, alone, None)
            if run:  # the first warms up
                way.seconds.append(time.perf_counter() - start)
                way.sampling.append(sampling)
            way.update = update
        run += 1
    return [way.row(name, ways[1]) for way in ways]


def main() -> None:
    parser = argparse.ArgumentParser(description="A run of reinforcement learning on one core.")
    parser.add_argument("--config", action="append", metavar="PRESET", help="default: navigation")
    parser.add_argument("--seconds", type=float, default=20.0, help="measuring time of each preset (default: 20)")
    given, options = parser.parse_known_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| preset | derivatives | a run, s | steps a second | sampling | away from autograd's |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name in given.config or ["navigation"]:
        for row in measure(name, options, given.seconds):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
