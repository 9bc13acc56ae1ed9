"""Scaling of a job with the number of ranks, and the cost of its exchange against an Allreduce of the same size.

    mpirun -n 4 python benchmarks/scaling.py [--tasks 64] [--repeats 9]

For 1, 2, 4, … ranks, up to the number that it is started with, in turn:

    strong   one worker, its tasks spread over the ranks: ideally, tasks/s are proportional to the ranks
    weak     a worker on each rank, each with all the tasks: ideally, a run takes as long as on one rank
             "its work alone" is the mean of the ranks' computation: if it is slower than ideal, the cores slow each
             other down (clock, memory), independently of the exchange

and the exchange of updates, from a barrier to θ on every rank, against a bare Allreduce, and Allreduce + Bcast, of the
same size; the optimizer's step is listed separately. Medians; the model is Omniglot's Conv4 on random images. Idle
ranks sleep. With more ranks than cores the figures show how the machine is shared, not how the code scales.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from hpc_dmaml.communicator import Communicator, MpiCommunicator, connect
from hpc_dmaml.config import RunConfig
from hpc_dmaml.engine.allocator import keep_freed_memory
from hpc_dmaml.exchange import Exchange, RankReport
from hpc_dmaml.meta_model import MetaModel
from hpc_dmaml.optimizers import SGD
from hpc_dmaml.parameters import flatten
from hpc_dmaml.placement import Placement
from hpc_dmaml.setup import make_learner
from hpc_dmaml.start import build_module
from hpc_dmaml.tasks import Glyphs
from hpc_dmaml.tasks.image_classes import Classes, FewShotSampler
from hpc_dmaml.worker import Learner, work

Result = TypeVar("Result")


def make(tasks: int) -> tuple[Learner, MetaModel]:
    """Omniglot's network on random images: the cost of a step does not depend on their content."""
    config = RunConfig(tasks=tasks, optimizer=SGD(1e-6), threads=1)
    images = np.random.default_rng(0).integers(0, 256, (400, 1, 28, 28), np.uint8)
    classes = Classes.of(np.arange(0, 400, 20), np.full(20, 20))
    sampler = FewShotSampler(images, dict.fromkeys(("train", "validation", "test"), classes), Glyphs())
    module = build_module(config, sampler.sample_shape, sampler.outputs)
    return make_learner(config, sampler, module, torch.device("cpu")), MetaModel(flatten(module), config.optimizer)


def one_run(learner: Learner, model: MetaModel, comm: Communicator, workers: int) -> Callable[[], list[float]]:
    """A function that does one run on the ranks of `comm` and returns this rank's seconds of work and of exchange."""
    placement = Placement(comm.size, workers, comm.rank)
    exchange = Exchange(comm, placement, learner.config.weight_generator, gathers=False, whole=False)

    def run() -> list[float]:
        start = time.perf_counter()
        done = [work(learner, model.theta, 0, w, placement, None) for w in placement.hosted]
        work_s = time.perf_counter() - start
        rank = RankReport(work_s, 0, 0, 0, 0, 0, 0, 0)
        reports = exchange.report([report for _, report in done], rank)
        start = time.perf_counter()
        exchange_and_step(exchange, model, [update for update, _ in done], reports.loss[None], reports.finite)
        return [work_s, time.perf_counter() - start]

    return run


def exchange_and_step(
    exchange: Exchange, model: MetaModel, updates: list[torch.Tensor], memory: np.ndarray, finite: np.ndarray
) -> None:
    """Combine the updates, step the model and share it, as a run does after its work."""
    _, update = exchange.combine(updates, memory, finite)
    if update is not None:
        model.step(update)
    exchange.share(model)


def timed(comm: Communicator, function: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds from a barrier until the slowest rank is done, and the result of `function`."""
    comm.barrier()
    start = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - start
    return comm.all_gather(np.array([seconds])).max(), result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=64, help="tasks of a worker")
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    world = connect()
    learner, model = make(given.tasks)
    sizes = [size for size in (2**k for k in range(11)) if size <= world.size]
    groups = {size: world.split(int(world.rank >= size)) for size in sizes}

    rows: dict[tuple[str, int], list[np.ndarray]] = {}
    for repeat in range(given.repeats + 1):
        for size, group in groups.items():
            for kind, workers in (("strong", 1), ("weak", size)):
                world.barrier()
                if world.rank < size:
                    seconds, parts = timed(group, one_run(learner, model, group, workers))
                    means = group.all_gather(np.array(parts)).mean(0)
                    if repeat:  # the first warms up
                        rows.setdefault((kind, size), []).append(np.array([seconds, *means]))
    if world.rank == 0:
        print(f"{given.tasks} tasks a worker, {model.theta.numel():,} parameters, medians of {given.repeats}\n")
        print(
            "| ranks | strong: tasks/s | efficiency | its work alone | weak: time against 1 rank | its work alone | exchange |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- |")
        medians = {key: np.median(values, axis=0) for key, values in rows.items()}
        for size in sizes:
            strong, weak = medians["strong", size], medians["weak", size]
            gain, growth = medians["strong", 1] / strong / size, weak / medians["weak", 1]
            print(
                f"| {size} | {given.tasks / strong[0]:.0f} | {gain[0]:.0%} | {gain[1]:.0%} "
                f"| {growth[0]:.2f} × | {growth[1]:.2f} × | {weak[2] / weak[0]:.1%} |"
            )
    compare_exchange(world, model, learner, repeats=20 * given.repeats)


def compare_exchange(world: Communicator, model: MetaModel, learner: Learner, repeats: int) -> None:
    """Print the exchange's time against that of bare collectives of the same size."""
    if not isinstance(world, MpiCommunicator):
        return
    update = torch.full_like(model.theta, 1e-6)
    buffer = update.numpy().copy()
    placement = Placement(world.size, world.size, world.rank)
    memory, finite = np.ones((1, world.size)), np.full(world.size, True)
    generator = learner.config.weight_generator
    exchanges = {g: Exchange(world, placement, generator, g, whole=False) for g in (False, True)}
    bare = {
        "bare Allreduce": lambda: world.all_sum(buffer),
        "bare Allreduce + Bcast": lambda: [collective(buffer) for collective in (world.all_sum, world.broadcast)],
        "optimizer step": lambda: model.step(update),
        "exchange, allreduce": lambda: exchange_and_step(exchanges[False], model, [update], memory, finite),
        "exchange, gather": lambda: exchange_and_step(exchanges[True], model, [update], memory, finite),
    }
    times: dict[str, list[float]] = {name: [] for name in bare}
    for _ in range(repeats):
        buffer[:] = 1e-6
        for name, function in bare.items():
            times[name].append(timed(world, function)[0])
    if world.rank == 0:
        medians = {name: float(np.median(values)) for name, values in times.items()}
        reference, step = medians["bare Allreduce + Bcast"], medians["optimizer step"]
        print(f"\nExchange of {update.numel() * 4 / 1024:.0f} KiB on {world.size} ranks, medians of {repeats}:")
        for name, seconds in medians.items():
            own = seconds - step if name.startswith("exchange") else seconds
            note = " without the step" if name.startswith("exchange") else ""
            print(f"{name:<24}{seconds * 1e6:8.0f} µs   {own / reference:5.2f} × Allreduce + Bcast{note}")


if __name__ == "__main__":
    main()
