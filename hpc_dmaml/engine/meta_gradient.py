"""MAML's meta-gradient in adjoint form: exact, and without a graph across the inner steps.

A task adapts by gradient descent on its support set, θ_{k+1} = θ_k − α ∇L_s(θ_k), K times, and is judged by its query
loss L_q(θ_K). By the chain rule, with H_k = ∇²L_s(θ_k),

    dL_q/dθ_0 = (I − α H_0) (I − α H_1) … (I − α H_{K−1}) ∇L_q(θ_K),

evaluated from the right: v ← ∇L_q(θ_K), then v ← v − α H_k v for k = K−1 … 0, one Hessian-vector product a step.
First-order MAML stops at v = ∇L_q(θ_K). (Finn, Abbeel & Levine, 2017, equation 1 and section 5.2.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hpc_dmaml.engine.objective import Gradient, Objective, Parameters
from hpc_dmaml.tasks import Samples, TaskBatch


@dataclass(frozen=True)
class InnerLoop:
    """How a task adapts."""

    lr: float
    steps: int
    first_order: bool = False
    keep: Literal["activations", "parameters"] = "activations"
    """What is stored of each inner step: everything, or θ_k alone, from which the step is computed again."""


class MetaGradient(NamedTuple):
    gradient: Tensor
    """Σ over the tasks of dL_q/dθ, (P,)."""
    losses: Tensor
    """Query loss of each task after adaptation, (B,)."""
    accuracies: Tensor
    """(B,)"""


@torch.no_grad()
def meta_gradient(objective: Objective, theta: Tensor, batch: TaskBatch, inner: InnerLoop, chunk: int) -> MetaGradient:
    """The meta-gradient at θ (P,) of a batch of tasks, of which `chunk` are computed at once."""
    entered, total = objective.enter(theta, 1), None
    losses, accuracies = [], []
    for part in chunks(batch, chunk, theta):
        v, loss, accuracy = _adjoint(objective, _for_tasks(entered, len(part)), part, inner)
        sums = tuple(each.sum(0, keepdim=True) for each in v)
        total = sums if total is None else tuple(a.add_(b) for a, b in zip(total, sums, strict=True))
        losses.append(loss)
        accuracies.append(accuracy)
    if total is None:
        raise ValueError("meta_gradient: a batch without tasks")
    return MetaGradient(objective.flat(total)[0], torch.cat(losses), torch.cat(accuracies))


def _adjoint(
    objective: Objective, parameters: Parameters, batch: TaskBatch, inner: InnerLoop
) -> tuple[Parameters, Tensor, Tensor]:
    """dL_q/dθ_0 of every task, its query loss and its accuracy."""
    kept: list[Gradient | Parameters] = []
    for _ in range(inner.steps):
        step = objective.gradient(parameters, *batch.support)
        if not inner.first_order:
            kept.append(step if inner.keep == "activations" else parameters)
        parameters = descend(parameters, step.value, inner.lr)
        del step
    query = _query(objective, parameters, batch)
    losses, outputs, v, _ = objective.gradient(parameters, *query)
    while kept:
        at = kept.pop()
        record = (at if isinstance(at, Gradient) else objective.gradient(at, *batch.support)).record
        v = descend(v, objective.hessian_vector(record, v), inner.lr)
    return v, losses, objective.loss.accuracy(outputs, query.y)


@torch.no_grad()
def adapt(
    objective: Objective, parameters: Parameters, support: Samples, lr: float, steps: int
) -> Iterator[Parameters]:
    """The parameters before adaptation, and after each of `steps` steps of it."""
    yield parameters
    for _ in range(steps):
        parameters = descend(parameters, objective.gradient(parameters, *support).value, lr)
        yield parameters


@torch.no_grad()
def learning_curve(
    objective: Objective, theta: Tensor, batch: TaskBatch, lr: float, steps: int, chunk: int
) -> tuple[Tensor, Tensor]:
    """Query losses and accuracies, each (steps + 1, B): before adaptation from θ (P,), and after each step of it."""
    entered = objective.enter(theta, 1)
    losses, accuracies = [], []
    for part in chunks(batch, chunk, theta):
        curve = []
        for parameters in adapt(objective, _for_tasks(entered, len(part)), part.support, lr, steps):
            query = _query(objective, parameters, part)
            loss, outputs = objective.value(parameters, *query)
            curve.append((loss, objective.loss.accuracy(outputs, query.y)))
        losses.append(torch.stack([loss for loss, _ in curve]))
        accuracies.append(torch.stack([accuracy for _, accuracy in curve]))
    return torch.cat(losses, 1), torch.cat(accuracies, 1)


def chunks(batch: TaskBatch, size: int, theta: Tensor) -> Iterator[TaskBatch]:
    """The batch in parts of `size` tasks, as tensors on θ's device and of its precision."""
    for start in range(0, len(batch), size):
        yield batch.part(slice(start, start + size)).to(theta.device, theta.dtype)


def _for_tasks(parameters: Parameters, tasks: int) -> Parameters:
    """One task's parameters (1, ...) for many."""
    return tuple(p.expand(tasks, *p.shape[1:]) for p in parameters)


def descend(parameters: Parameters, direction: Parameters, lr: float) -> Parameters:
    """parameters − lr · direction"""
    return tuple(torch.sub(p, d, alpha=lr) for p, d in zip(parameters, direction, strict=True))


def _query(objective: Objective, adapted: Parameters, batch: TaskBatch) -> Samples:
    return batch.query(objective.flat(adapted) if batch.needs_adapted else None)
