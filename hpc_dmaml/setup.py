"""From a configuration to a job that is ready to run. Whatever is wrong with the input is found here, before any work.

Every step is taken by all ranks together, and what one of them finds wrong, all refuse (`Communicator.agreeing`).
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hpc_dmaml import optimizers, placement, results
from hpc_dmaml.claim import claim
from hpc_dmaml.communicator import Communicator, available_cores, own_cores
from hpc_dmaml.config import RunConfig
from hpc_dmaml.engine import default_chunk, objective_for
from hpc_dmaml.engine.allocator import keep_freed_memory
from hpc_dmaml.files import Lock
from hpc_dmaml.outer import MetaModel
from hpc_dmaml.parameters import Layout, flatten
from hpc_dmaml.placement import Placement
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.stopping import Stop
from hpc_dmaml.tasks import TaskFamily, TaskSampler
from hpc_dmaml.training_tasks import TrainingTasks
from hpc_dmaml.worker import Learner


@dataclass
class Job:
    """Everything that the loop needs."""

    config: RunConfig
    """With all defaults that depend on the launch resolved."""
    comm: Communicator
    placement: Placement
    learner: Learner
    model: MetaModel
    layout: Layout
    device: torch.device
    output: Path
    previous: results.Results | None
    """What a resumed job goes on with; the whole log is on rank 0 alone."""
    lock: Lock | None
    """On the output; held by rank 0."""
    warnings: list[str]


def set_up(config: RunConfig, comm: Communicator, stop: Stop, stack: ExitStack) -> Job:
    """Check and prepare everything. The output file's lock is held until `stack` closes. Raises Refusal."""
    config = replace(config, workers=config.workers or comm.size)
    workers, warnings = config.workers or 1, []
    with comm.agreeing():
        placement.check(comm.size, workers, config.tasks)
        optimizers.check(config.optimizer)
    output = comm.broadcast_object(Path(config.output) if config.output else _new_output(config))
    lock = None
    with comm.agreeing():
        if comm.rank == 0:
            lock = claim(output, config.resume is not None, stop.asked, stack)
            if not lock.works:
                warnings.append(f"{output.parent} cannot lock files: no second job may write {output.name} meanwhile")
    node = comm.split_node()
    sampler = load_task(config.task, comm, node)
    device = use_device(config, comm, node)
    previous = None
    with comm.agreeing():
        if config.resume is not None and comm.rank == 0:
            previous = results.read(config.resume, verify=True)
    state = comm.broadcast_object(previous.state() if previous is not None else None)
    previous = previous or state
    with comm.agreeing():
        module = build_module(config, sampler.sample_shape, sampler.outputs)
        learner = make_learner(config, sampler, module, device)
        theta, layout = flatten(module).to(device), Layout.of(module)
        if previous is not None:
            theta = stored_parameters(previous, layout, "last").to(theta)
        elif config.init_from is not None:
            theta = stored_parameters(results.read(config.init_from), layout, "last").to(theta)
    model = MetaModel(theta, config.optimizer)
    if previous is not None:
        model.load_optimizer_state(previous.group("checkpoint/optimizer/"))
    place = Placement(comm.size, workers, comm.rank)
    return Job(config, comm, place, learner, model, layout, device, output, previous, lock, warnings)


def load_task(family: TaskFamily, comm: Communicator, node: Communicator) -> TaskSampler:
    """One rank a node brings the data, then all open it."""
    with comm.agreeing():
        if node.rank == 0:
            family.prepare()
    with comm.agreeing():
        return family.load()


def use_device(config: RunConfig, comm: Communicator, node: Communicator) -> torch.device:
    """This rank's device, with its threads, precision and allocator set."""
    cores = available_cores(node)
    with comm.agreeing():
        device = choose_device(config.device, node)
        torch.set_num_threads(choose_threads(config.threads, cores, node.size))
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.tf32
        keep_freed_memory()
    return device


def make_learner(config: RunConfig, sampler: TaskSampler, module: torch.nn.Module, device: torch.device) -> Learner:
    """The learner for a module, tried on one task. Raises ValueError where module and tasks do not fit."""
    objective = objective_for(module.to(device), sampler.sample_shape, sampler.loss)
    batch = sampler.sample("train", generator(config.seed, Purpose.INITIALISATION), 1)
    samples = batch.support.x.shape[1] + batch.held_query.x.shape[1]
    theta = flatten(module)
    try:
        part = batch.to(theta.device, theta.dtype)
        _, outputs = objective.value(objective.enter(theta, 1), *part.support)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shape = tuple(batch.support.x.shape[1:])
        raise ValueError(f"model: {type(module).__name__} cannot take a task's samples {shape}: {error}") from error
    if tuple(outputs.shape[2:]) != (sampler.outputs,):
        raise ValueError(
            f"model: it gives {tuple(outputs.shape[2:])} numbers for a sample where the task needs {sampler.outputs}"
        )
    chunk = config.chunk or default_chunk(objective, samples, device)
    return Learner(config, sampler, TrainingTasks(sampler, config), objective, chunk)


def build_module(config: RunConfig, sample_shape: tuple[int, ...], outputs: int) -> torch.nn.Module:
    """The configured model, initialised by the job's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(config.seed, Purpose.INITIALISATION).integers(2**63)))
        module = config.model.build(sample_shape, outputs)
    return module.to(getattr(torch, config.dtype))


def stored_parameters(source: results.Results, layout: Layout, which: str) -> torch.Tensor:
    """The last or the best parameters (P,) of a file, if they are of this layout."""
    stored = layout_of(source)
    if stored != layout:
        raise ValueError(f"{source.path} holds the parameters of another model: {_first_difference(stored, layout)}")
    return torch.from_numpy(source["meta_model/parameters" if which == "last" else "meta_model/best_parameters"])


def layout_of(source: results.Results) -> Layout:
    """The layout of the parameters in a file."""
    shapes = tuple(tuple(int(n) for n in str(s).split(",") if n) for s in source["meta_model/shapes"])
    return Layout(tuple(map(str, source["meta_model/names"])), shapes)


def _first_difference(one: Layout, other: Layout) -> str:
    for a, b in zip(zip(one.names, one.shapes, strict=True), zip(other.names, other.shapes, strict=True), strict=False):
        if a != b:
            return f"{a[0]} {a[1]} there, {b[0]} {b[1]} here"
    return f"{len(one.names)} parameter tensors there, {len(other.names)} here"


def choose_device(name: str, node: Communicator) -> torch.device:
    """The GPU of this rank's place on its node, the CPU where there is none, or the device that the user names."""
    if name == "auto":
        gpus = torch.cuda.device_count()
        return torch.device("cuda", node.rank % gpus) if gpus else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {name!r} is not to be had: {error}") from error
    return device


def choose_threads(threads: int | None, cores: int, ranks: int) -> int:
    """What the user says, else OMP_NUM_THREADS, else a fair share of the node's `cores` for its `ranks`."""
    if threads is not None:
        return threads
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    return max(1, min(len(own_cores()), cores // ranks))


def _new_output(config: RunConfig) -> Path:
    stem = f"{type(config.task).__name__.lower()}_{time.strftime('%Y%m%d_%H%M%S')}"
    candidates = (Path("results") / f"{stem}{suffix}.h5" for suffix in ("", *(f"_{i}" for i in range(2, 10_000))))
    return next(path for path in candidates if not path.exists())
