"""Set up a job from its configuration. Errors in the input are found here, before any work.

All ranks take every step together, and all refuse what one of them finds wrong (`Communicator.raising_together`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from hpc_dmaml import (
    algorithms,
    compiling,
    meta_model,
    optimizers,
    placement,
    results,
    schedules,
    trust_region,
    weight_generators,
)
from hpc_dmaml.claim import claim, claim_new
from hpc_dmaml.communicator import Communicator, Refusal, available_cores, own_cores
from hpc_dmaml.config import RunConfig, check_storable
from hpc_dmaml.engine import Engine, acting, default_chunk, objective_for, try_out
from hpc_dmaml.engine.allocator import keep_freed_memory
from hpc_dmaml.files import Lock
from hpc_dmaml.losses import named
from hpc_dmaml.meta_model import MetaModel
from hpc_dmaml.own_optimizers import OwnOptimizers
from hpc_dmaml.parameters import Layout, digest, set_constants
from hpc_dmaml.placement import Placement
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.schedules import Constant
from hpc_dmaml.start import beginning, is_normalized, start
from hpc_dmaml.state import State
from hpc_dmaml.stopping import Stop
from hpc_dmaml.tasks import Split, TaskBatch, TaskFamily, TaskSampler
from hpc_dmaml.tasks.border import check, check_digest, check_place, check_sampler, draw
from hpc_dmaml.tasks.data_mark import DataMark
from hpc_dmaml.tasks.image_classes import FewShotSampler
from hpc_dmaml.training_tasks import TrainingTasks
from hpc_dmaml.worker import Learner


@dataclass
class Job:
    """Everything that the loop needs."""

    config: RunConfig
    """The configuration, in which defaults that depend on the launch are resolved."""
    comm: Communicator
    placement: Placement
    learner: Learner
    state: State
    module: torch.nn.Module
    """The model as it was built: its constants are the job's, its parameters the initial ones."""
    layout: Layout
    """Layout of φ."""
    device: torch.device
    data: DataMark
    output: Path
    previous: results.Results | None
    """The content of the resumed file; only rank 0 has the whole log."""
    lock: Lock | None
    """Lock on the output, held by rank 0."""
    warnings: list[str]


def set_up(config: RunConfig, comm: Communicator, stop: Stop, stack: ExitStack) -> Job:
    """Check and prepare everything. The output file's lock is held until `stack` closes. Raises Refusal."""
    config = replace(config, workers=config.workers or comm.size, schedule=config.schedule.over(config.runs))
    workers, warnings = config.workers or 1, []
    by_region = isinstance(config.local_optimizer, optimizers.TRPO)
    stepping = None if by_region else config.local_optimizer
    with comm.raising_together():
        if comm.rank == 0:
            check_storable(config)
        placement.check(comm.size, workers, config.tasks)
        schedules.check(config.schedule, config.runs)
        scheduled = config.schedule != Constant()
        meta_model.check(config.optimizer, "optimizer", scheduled)
        if stepping is not None:
            meta_model.check(stepping, "local_optimizer", scheduled)
    output, lock = Path(config.output or ""), None
    with comm.raising_together():
        if comm.rank == 0:
            if config.output:
                lock = claim(output, config.resume is not None, stop.asked, stack)
            else:
                output, lock = claim_new(_new_outputs(config), stack)
            if not lock.works:
                warnings.append(f"{output.parent} cannot lock files: no second job may write {output.name} meanwhile")
    output = comm.broadcast_object(output)
    node = comm.split_node()
    splits: tuple[Split, ...] = ("train", "validation") if config.validation.every else ("train",)
    sampler, data = load_task(config.task, comm, node, splits)
    device = use_device(config, comm, node)
    previous = None
    with comm.raising_together():
        if config.resume is not None and comm.rank == 0:
            previous = results.read(config.resume, verify=True)
            if "checkpoint/memory" not in previous.arrays:  # (…, workers): else it could claim any number of workers
                raise ValueError(
                    f"resume: {config.resume} holds no checkpoint: merge leaves it out unless you give --checkpoints. Start a "
                    "new job from its parameters (--init_from)"
                )
            if (made := len(previous["runs/run"])) > config.runs:
                raise ValueError(
                    f"runs: {config.resume} has made {made} runs already: give as many or more, not {config.runs}"
                )
            if DataMark.stored_in(previous).changed(data):
                raise ValueError(
                    f"resume: the data or its splits have changed since {config.resume} was written: restore them, or start "
                    "a new job from its parameters (--init_from)"
                )
        weight_generators.check(config.weight_generator, workers)
    told = comm.broadcast_object(previous.state() if previous is not None else None)
    previous = previous or told
    module, layout, phi, more = start(config, sampler.sample_shape, sampler.outputs, previous, comm)
    warnings += more
    anew = previous is None and config.init_from is None  # else the constants of normalisation came with the file
    if anew and is_normalized(config.task) and isinstance(sampler, FewShotSampler):
        with comm.raising_together():
            statistics = sampler.statistics() if comm.rank == 0 else None
        set_constants(module.get_submodule("normalize"), comm.broadcast_object(statistics), "task")
    phi, place = phi.to(device), Placement(comm.size, workers, comm.rank)
    learner = make_learner(config, sampler, module, device, layout.model, comm)
    with comm.raising_together():
        learner.training.check()
        if by_region:
            trust_region.check(learner.loss, config.algorithm, config.clip)
    own = OwnOptimizers(phi, stepping, config.local_state, place)
    state = State(
        MetaModel(phi, config.optimizer),
        own,
        np.empty((0, workers)),
        keep=config.validation.keep if comm.rank == 0 else 0,
    )
    if previous is not None:
        with comm.raising_together():
            state.resume(previous)
    learner = compiling.compiled(learner, state, comm, node, place)
    warnings += learner.warnings
    return Job(
        learner.config, comm, place, learner, state, module, layout, device, data, output, previous, lock, warnings
    )


def load_task(
    family: TaskFamily, comm: Communicator, node: Communicator, splits: tuple[Split, ...] = ("train",)
) -> tuple[TaskSampler, DataMark]:
    """Let one rank per node prepare the data, then open it on all ranks, and check that these splits have tasks."""
    prepared = None
    with comm.raising_together():
        if node.rank == 0:
            prepared = check_digest(family.prepare())
    with comm.raising_together():
        sampler = check_sampler(family.load())
        for split in splits:
            draw(sampler, split, generator(0, Purpose.INITIALISATION), 1)
    loaded = getattr(sampler, "digest", None)
    told = comm.all_gather_objects((prepared, loaded if isinstance(loaded, str) else None))
    digests = {digest for each in told for digest in each if digest}
    if len(digests) > 1:
        raise Refusal("task: not all ranks see the same data. Does it differ between nodes, or has it just changed?")
    return sampler, DataMark.of(sampler, *digests)


def use_device(config: RunConfig, comm: Communicator, node: Communicator) -> torch.device:
    """Choose this rank's device, and set threads, precision and allocator."""
    cores = available_cores(node)
    with comm.raising_together():
        device = choose_device(config.device, node)
        torch.set_num_threads(choose_threads(config.threads, cores, node.size))
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.tf32
        keep_freed_memory()
    return device


def make_learner(
    config: RunConfig,
    sampler: TaskSampler,
    module: torch.nn.Module,
    device: torch.device,
    layout: Layout | None = None,
    comm: Communicator | None = None,
    split: Split = "train",
) -> Learner:
    """Make the learner for a module, after a trial on one task of a split. Raises Refusal where they do not fit.

    `layout`: the order of the parameters in θ; by default the module's own.
    """
    comm, layout = comm or Communicator(), layout or Layout.of(module)
    dtype = getattr(torch, config.dtype)
    with comm.raising_together():
        batch = draw(sampler, split, generator(config.seed, Purpose.INITIALISATION), 1).to(device, dtype)
        loss = named(sampler.loss)
        objective = objective_for(module.to(device), sampler.sample_shape, loss, layout)
        act = acting(objective, objective.unflatten(layout.flatten(module), 1))
        support, query = batch.support(0, act), batch.query(act)
        if not isinstance(batch, TaskBatch):  # its data has not been checked by `draw`
            for what, samples in (("support", support), ("query", query)):
                of = f"task {type(sampler).__name__}: {split} {what}"
                check(samples, sampler, of, 1)
                check_place(samples, device, dtype, of)
    draws = comm.all_gather_objects([digest(each.cpu().numpy()) for each in (*support, *query)])
    trial = None
    with comm.raising_together():
        if comm.rank == 0:
            trial = try_out(module, layout, support, sampler.outputs, loss, config.algorithm.is_second_order)
            if split == "train":
                algorithms.check_head(config.algorithm, layout, module, support.x[0])
    trial = comm.broadcast_object(trial)
    objective = objective_for(module, sampler.sample_shape, loss, layout, trial.layerwise)
    chunk = default_chunk(objective, support.x.shape[1] + query.x.shape[1], device)
    engine = Engine(objective, config.chunk or chunk, config.keep)
    with comm.raising_together():
        if comm.rank == 0:
            algorithms.check(config.algorithm, engine, beginning(config.algorithm, layout, module), batch)
    warnings = tuple(trial.warnings)
    if any(drawn != draws[0] for drawn in draws):
        warnings += ("the ranks draw different tasks for the same worker: the result depends on the placement",)
    return Learner(config, sampler, TrainingTasks(sampler, config), engine, warnings)


def choose_device(name: str, node: Communicator) -> torch.device:
    """The device that the user names; auto: a GPU by this rank's number on its node, or the CPU if there is none."""
    if name == "auto":
        gpus = torch.cuda.device_count()
        return torch.device("cuda", node.rank % gpus) if gpus else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # the device meta has no numbers
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {name!r} is not available: {error}") from error
    return device


def choose_threads(threads: int | None, cores: int, ranks: int) -> int:
    """`threads` if given, else OMP_NUM_THREADS, else a fair share of the node's `cores` for its `ranks`."""
    if threads is not None:
        return threads
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    return max(1, min(len(own_cores()), cores // ranks))


def _new_outputs(config: RunConfig) -> Iterator[Path]:
    """Names for the output of a job that was given none."""
    stem = f"{type(config.task).__name__.lower()}_{time.strftime('%Y%m%d_%H%M%S')}"
    return (Path("results") / f"{stem}{suffix}.h5" for suffix in ("", *(f"_{i}" for i in range(2, 10_000))))
