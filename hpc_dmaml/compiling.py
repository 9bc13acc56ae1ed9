"""The field `compile`: compile a job's meta-gradient and adaptation curve before its first run."""

from __future__ import annotations

import hashlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from hpc_dmaml.algorithms import ANIL, BOIL, LSLR, MAML, MetaSGD, Reptile
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.engine import LOSSES, Compiler
from hpc_dmaml.engine.layerwise import LayerwiseObjective
from hpc_dmaml.placement import Placement, share
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.state import State
from hpc_dmaml.tasks import Batch, Split, TaskBatch
from hpc_dmaml.tasks.border import draw
from hpc_dmaml.tasks.image_cache import cache_folder
from hpc_dmaml.validation import BLOCK, curve
from hpc_dmaml.worker import Learner

SMALL_S, WORTH_S = 0.02, 300.0
"""Seconds. `auto` compiles if one meta-gradient takes less than SMALL_S, where the overhead of calls dominates and half
the time or more is saved, and all of a rank's take more than WORTH_S; compiling takes one or two minutes."""


def compiled(learner: Learner, state: State, comm: Communicator, node: Communicator, place: Placement) -> Learner:
    """The learner with the job's functions compiled if that is possible, and `compile` set to on or off for the file.

    One rank per node compiles, then the others read its result from disk. If a rank fails, all run uncompiled.
    """
    if learner.config.compile == "off":
        return learner
    theta, config = state.model.theta, learner.config
    with comm.raising_together():
        batch = _batch(learner, "train", config.tasks, place.share(config.tasks))
        obstacle = _obstacle(learner, batch, theta)
    if config.compile == "auto":
        pays = comm.broadcast_object(
            comm.rank == 0 and obstacle is None and _pays(learner, theta, batch, state.run, place)
        )
        config = replace(config, compile="on" if pays else "off")
        learner = replace(learner, config=config)
    if config.compile == "off" or obstacle is not None:
        warning = () if config.compile == "off" else (f"compile: nothing is compiled: {obstacle}",)
        return replace(learner, warnings=learner.warnings + warning)

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / f"compiled_{_processor()}"))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # else every rank starts worker processes
    compiler = Compiler()
    faster = replace(learner, engine=learner.engine._replace(compiler=compiler))
    if comm.rank == 0:
        print("Compiling: up to two minutes, where no earlier job did", file=sys.stderr, flush=True)
    for is_first in (True, False):
        with comm.raising_together():
            if (node.rank == 0) == is_first:
                _call_all(faster, theta, batch, comm)
    failures = [each for each in comm.all_gather_objects(compiler.failure) if each is not None]
    if failures:
        return replace(learner, warnings=(*learner.warnings, f"compile: nothing is compiled: {failures[0]}"))
    return faster


def _obstacle(learner: Learner, batch: Batch, theta: Tensor) -> str | None:
    """Why the job cannot be compiled, or None."""
    objective, config = learner.engine.objective, learner.config
    if theta.device.type != "cpu":
        return f"it is for CPUs, and the device is {theta.device}"
    if not isinstance(objective, LayerwiseObjective):
        return f"the model's derivatives are by {objective.derivatives}, not layerwise"
    if objective.loss not in LOSSES.values():
        return f"the loss is {type(objective.loss).__name__}, not one of {', '.join(LOSSES)}"
    if type(batch) is not TaskBatch:
        return f"the data of {type(config.task).__name__} depends on the model or the step"
    if type(config.algorithm) not in (MAML, ANIL, BOIL, MetaSGD, LSLR, Reptile):
        return f"{type(config.algorithm).__name__} is an algorithm of your own"
    if config.keep != "activations":
        return f"keep is {config.keep}"
    return None


def _pays(learner: Learner, theta: Tensor, batch: Batch, run: int, place: Placement) -> bool:
    config = learner.config
    times = (config.runs - run) * config.epochs * len(place.hosted)
    seconds = statistics.median(_seconds(lambda: _update(learner, theta, batch, run)) for _ in range(5))
    return seconds < SMALL_S and times * seconds > WORTH_S


def _call_all(learner: Learner, theta: Tensor, batch: Batch, comm: Communicator) -> None:
    """Call, and so compile, all functions that this rank will call, for each number of tasks."""
    config = learner.config
    for run in {0, config.runs - 1}:
        _update(learner, theta, batch, run)
    if config.validation.every:
        tasks = config.validation.tasks
        mine = share(tasks, comm.rank, comm.size)
        blocks = {min(BLOCK, mine.stop - start) for start in range(mine.start, mine.stop, BLOCK)}
        for size in blocks:
            curve(learner, theta, _batch(learner, "validation", size, slice(None)), config.validation.steps)


def _update(learner: Learner, theta: Tensor, batch: Batch, run: int) -> None:
    learner.config.algorithm.update(learner.engine, theta, batch, run)


def _batch(learner: Learner, split: Split, tasks: int, part: slice) -> Batch:
    return draw(learner.sampler, split, generator(learner.config.seed, Purpose.INITIALISATION), tasks, part)


def _processor() -> str:
    """A hash of this processor's features: nodes that share a folder may not be able to run each other's code."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        can = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        can = platform.processor()
    return hashlib.blake2b(can.encode(), digest_size=4).hexdigest()


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
