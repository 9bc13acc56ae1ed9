"""Validation of samples from a task family or a user: they are checked here once, and not again later."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hpc_dmaml.losses import Loss, Metric, described, named
from hpc_dmaml.requirements import is_whole
from hpc_dmaml.tasks.family import Batch, Samples, Split, TaskBatch, TaskSampler

if TYPE_CHECKING:
    import torch


class Form(Protocol):
    """The description of samples: a `TaskSampler`, or a trained model."""

    @property
    def sample_shape(self) -> tuple[int, ...]: ...
    @property
    def outputs(self) -> int: ...
    @property
    def loss(self) -> Loss | str: ...


def check_sampler(sampler: TaskSampler) -> TaskSampler:
    """Return the sampler. Raises ValueError if it lacks an attribute of a `TaskSampler`, or one has a wrong type."""
    name, is_count = type(sampler).__name__, partial(is_whole, least=1)
    for attribute, wanted, is_right in (
        ("sample_shape", "a tuple of whole numbers", lambda v: isinstance(v, tuple) and all(map(is_count, v))),
        ("outputs", "a whole number, 1 or more", is_count),
        ("loss", "a Loss, or the name of one", lambda v: isinstance(v, Loss | str)),
        ("block_runs", "a whole number, 1 or more", is_count),
        ("sample", "a method", callable),
    ):
        value = getattr(sampler, attribute, None)
        if not is_right(value):
            came = "nothing" if value is None else repr(value)
            raise ValueError(f"task: {name}.{attribute} must be {wanted}, not {came} (see TaskSampler)")
    loss = named(sampler.loss)
    if not isinstance(loss.metric, Metric | None) or (loss.metric is not None and not loss.metric.name):
        raise ValueError(
            f"task: {name}: {type(loss).__name__}.metric must be a Metric with a name, or None, not {loss.metric!r}"
        )
    if loss.metric is not None and type(loss).measure is Loss.measure:
        raise ValueError(f"task: {name}: {type(loss).__name__} has a metric, so write measure()")
    described(loss)  # raises ValueError if a result file could not record it
    return sampler


def check_digest(given: object) -> str | None:
    """Return what `prepare` gave. Raises ValueError unless that is the digest of a family's data, or None."""
    if given is not None and not (isinstance(given, str) and given.isprintable()):
        raise ValueError(f"task: prepare must give a digest of the data as text, or None, not {given!r}")
    return given


def draw(sampler: TaskSampler, split: Split, rng: np.random.Generator, tasks: int, part: slice = slice(None)) -> Batch:
    """Draw a batch and check it. Raises ValueError if it does not match the sampler's attributes.

    Only the samples of a `TaskBatch` are checked here: those that depend on a policy are checked when they are made.
    """
    batch = sampler.sample(split, rng, tasks, part)
    of, wanted = f"task {type(sampler).__name__}: {split}", len(range(*part.indices(tasks)))
    if not isinstance(batch, Batch):
        raise ValueError(f"{of}: sample must give a TaskBatch, not {type(batch).__name__}")
    if isinstance(batch, TaskBatch):
        check(batch.support_set, sampler, f"{of} support", wanted)
        check(batch.query_set, sampler, f"{of} query", wanted)
    elif len(batch) != wanted:
        raise ValueError(f"{of} has {len(batch)} tasks, where {wanted} were asked for")
    return batch


def check_place(samples: Samples, device: torch.device, dtype: torch.dtype, what: str) -> None:
    """Raise ValueError unless samples, which are not moved any more, are tensors on the device with this dtype."""
    import torch

    for part, given in zip("xy", samples, strict=True):
        is_there = isinstance(given, torch.Tensor) and given.device == device
        if not is_there or (given.is_floating_point() and given.dtype != dtype):
            came = f"{type(given).__name__} of {torch.as_tensor(given).dtype} on {torch.as_tensor(given).device}"
            raise ValueError(
                f"{what} {part} must be a tensor of {dtype} on {device}, like the arrays of its batch, not {came}"
            )


def check(samples: Samples, form: Form, what: str, tasks: int) -> None:
    """Raise ValueError unless the inputs are (tasks, n, *sample shape), and the targets fit the loss: class numbers
    (tasks, n) below `outputs`, numbers (tasks, n, outputs), or for "any" anything (tasks, …).
    """
    import torch

    def refuse(part: str, came: object, wanted: str) -> None:
        raise ValueError(f"{what} {part} must be {wanted}, not {came}")

    def tensor(part: str, given: Any) -> torch.Tensor:
        try:
            return torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError):
            refuse(part, f"{type(given).__name__} of {getattr(given, 'dtype', 'objects')}", "an array of numbers")
            raise

    def shape(of: torch.Tensor) -> str:
        return f"shape {tuple(of.shape[1:])}" if of.dim() else "a single number"

    x, y = tensor("x", samples.x), tensor("y", samples.y)
    sample = ", ".join(map(str, form.sample_shape))
    if x.dim() < 2 or tuple(x.shape[2:]) != tuple(form.sample_shape) or x.shape[1] < 1:
        refuse("x", shape(x), f"n samples (n, {sample}) for a task")
    if x.dtype == torch.bool or x.is_complex():
        refuse("x", str(x.dtype), "bytes, which are scaled to [0, 1], or real numbers")
    n = x.shape[1]
    wanted = named(form.loss).targets
    if wanted == "classes":
        of_n = f"{n} class numbers, one for each of the {n} samples of a task"
        if tuple(y.shape[1:]) != (n,):
            refuse("y", shape(y), f"{of_n} (not one-hot)")
        if y.dtype == torch.bool or y.is_complex() or y.is_floating_point():
            refuse("y", str(y.dtype), f"{of_n}, of an integer type")
        least, most = (int(each) for each in torch.aminmax(y.long())) if y.numel() else (0, 0)
        if least < 0 or most >= form.outputs:
            refuse("y", f"{least} to {most}", f"class numbers from 0 to {form.outputs - 1}")
    elif wanted == "numbers":
        if tuple(y.shape[1:]) != (n, form.outputs):
            refuse("y", shape(y), f"({n}, {form.outputs}): {form.outputs} for each of the {n} samples of a task")
        if not y.is_floating_point():
            refuse("y", str(y.dtype), "of a floating type")
    if {len(x), len(y)} != {tasks}:
        raise ValueError(f"{what} has {len(x)} tasks in x and {len(y)} in y, where {tasks} were asked for")
