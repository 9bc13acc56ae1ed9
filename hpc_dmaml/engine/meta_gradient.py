"""MAML's meta-gradient in adjoint form: exact, and without a graph across the inner steps.

A task adapts by K steps of gradient descent on its support set, θ_{k+1} = θ_k − α_k∘g_k with g_k = ∇L_k(θ_k), and is
evaluated by its query loss L_q(θ_K). By the chain rule, with H_k = ∇²L_k(θ_k),

    dL_q/dθ_0 = (I − H_0 A_0) (I − H_1 A_1) … (I − H_{K−1} A_{K−1}) ∇L_q(θ_K),    A_k = diag(α_k),

evaluated from the right: v_K = ∇L_q(θ_K), then v_k = v_{k+1} − H_k(α_k∘v_{k+1}), one Hessian-vector product a step;
v also gives dL_q/dα_k = −g_k∘v_{k+1}. First-order MAML drops H (Finn, Abbeel & Levine, 2017, equation 1 and section
5.2; learned rates: Li et al., 2017). Where the query loss counts after every step, as in MAML++ (Antoniou et al., 2019,
equation 3), w_k ∇L_q(θ_k) is added to v_k. Where only the last layers adapt, see `hpc_dmaml.engine.head`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hpc_dmaml.engine.compiled import Compiler
from hpc_dmaml.engine.descent import Factor, at_step, descend, factors, times
from hpc_dmaml.engine.head import Head
from hpc_dmaml.engine.objective import Gradient, Objective, Parameters
from hpc_dmaml.engine.rates import Rates
from hpc_dmaml.requirements import is_number, is_whole, require
from hpc_dmaml.tasks import Batch, Samples, TaskBatch

Keep = Literal["activations", "parameters"]


class Engine(NamedTuple):
    """How meta-gradients are computed, and for how many tasks at once."""

    objective: Objective
    chunk: int = 1 << 30
    """Number of tasks computed at once."""
    keep: Keep = "activations"
    """What is stored of each inner step: its activations, or θ_k alone, from which they are recomputed."""
    judge: Objective | None = None
    """Objective of the query set, if its loss differs from that of the support set."""
    compiler: Compiler | None = None
    """Compiles the computation of a chunk; needs layerwise derivatives, a loss of `LOSSES`, and a `TaskBatch`."""


@dataclass(frozen=True)
class InnerLoop:
    """How a task adapts in training: by gradient descent on its support set."""

    lr: float | Rates
    """Inner learning rate α, or several (see `rates`)."""
    steps: int = 1
    first_order: bool = False
    """Leave out the second derivatives (first-order MAML)."""
    weights: tuple[float, ...] | None = None
    """Weight of the query loss after each step; by default only the loss after the last step counts."""

    def __post_init__(self) -> None:
        lr, weights = self.lr, self.weights
        rule = "a number, 0 or more, or Rates"
        require(isinstance(lr, Rates) or (is_number(lr) and lr >= 0), "inner.lr", repr(lr), rule)
        require(is_whole(self.steps), "inner.steps", repr(self.steps), "a whole number, 0 or more")
        require(isinstance(self.first_order, bool), "inner.first_order", repr(self.first_order), "True or False")
        if weights is not None:
            right = isinstance(weights, tuple | list) and len(weights) == self.steps and all(map(is_number, weights))
            require(right, "inner.weights", repr(weights), f"a number for each of the {self.steps} steps")


class MetaGradient(NamedTuple):
    gradient: Tensor
    """Σ over the tasks of dL_q/dθ, (P,)."""
    losses: Tensor
    """Query loss of each task after adaptation, (B,)."""
    metric: Tensor
    """Metric of each task after adaptation, (B,)."""
    rates: Tensor | None = None
    """Σ over the tasks of dL_q/dvalues of the rates, (Q,), if they are learned."""


@torch.no_grad()
def meta_gradient(engine: Engine, theta: Tensor, batch: Batch, inner: InnerLoop) -> MetaGradient:
    """The meta-gradient of a batch of tasks at θ (P,)."""
    if engine.compiler is not None and inner.weights is None:
        return _compiled(engine, engine.compiler, theta, batch, inner)
    objective, sweep = engine.objective, _Sweep(engine, inner)
    entered, total = objective.unflatten(theta, 1), None
    losses, metrics = [], []
    for part in chunks(batch, engine.chunk, theta):
        v, loss, metric = sweep(for_tasks(entered, len(part)), part)
        total = _added(total, v)
        losses.append(loss)
        metrics.append(metric)
    if total is None:
        raise ValueError("meta_gradient: a batch without tasks")
    slopes = sweep.slopes()
    return MetaGradient(objective.flatten(total)[0], torch.cat(losses), torch.cat(metrics), slopes)


def _compiled(engine: Engine, compiler: Compiler, theta: Tensor, batch: Batch, inner: InnerLoop) -> MetaGradient:
    """`meta_gradient`, by one compiled call for each chunk of tasks."""
    plain = engine._replace(compiler=None)
    rates = (inner.lr.values,) if isinstance(inner.lr, Rates) else ()

    def of_part(part: TaskBatch, theta: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        lr = inner.lr._replace(values=values[0]) if isinstance(inner.lr, Rates) else inner.lr
        return tuple(each for each in meta_gradient(plain, theta, part, replace(inner, lr=lr)) if each is not None)

    name = "meta-gradient", inner.steps, inner.first_order, None if rates else inner.lr
    parts = compiled_parts(compiler, name, of_part, batch, engine.chunk, theta, *rates)
    gradients, losses, metrics, *slopes = zip(*parts, strict=True)
    gradient, *learned = (sum(each[1:], start=each[0]) for each in (gradients, *slopes))
    return MetaGradient(gradient, torch.cat(losses), torch.cat(metrics), *learned)


class _Step(NamedTuple):
    """What the backward pass needs of an inner step."""

    at: Parameters
    support: Samples
    gradient: Gradient | None
    """None if it is to be recomputed."""
    judged: Parameters | None
    """w_k ∇L_q(θ_k)"""


class _Sweep:
    """Forward and backward pass through the inner steps of a chunk; sums the gradient of the rates over chunks."""

    def __init__(self, engine: Engine, inner: InnerLoop) -> None:
        self.objective, self.keep, self.inner = engine.objective, engine.keep, inner
        self.judge = engine.judge or engine.objective
        self.factors = factors(engine.objective, inner.lr)
        self.rates = inner.lr if isinstance(inner.lr, Rates) and inner.lr.learned else None
        self._slopes: list[Parameters | None] = [None] * len(self.factors)
        plain = self.rates is None and inner.weights is None and engine.keep == "activations"
        self.head = Head.of(engine.objective, inner.lr) if plain else None

    def __call__(self, parameters: Parameters, batch: Batch) -> tuple[Parameters, Tensor, Tensor]:
        """For every task, dL_q/dθ_0, and query loss and metric after adaptation."""
        objective, inner = self.objective, self.inner
        if self.head is not None and type(batch) is TaskBatch:  # the same support set in every step
            loss, y = self.judge.loss, batch.query_set.y
            found = self.head.sweep(parameters, batch, loss, self.factors, inner.steps, not inner.first_order)
            losses, outputs, v = found
            return v, loss.reported(losses, outputs, y), loss.measure(outputs, y)
        goes_back = not inner.first_order or self.rates is not None
        second_order, keeps_all = not inner.first_order, goes_back and self.keep == "activations"
        weights = inner.weights if inner.weights is not None and inner.steps else (*[0.0] * (inner.steps - 1), 1.0)
        kept: list[_Step] = []
        for k in range(inner.steps):
            act = acting(objective, parameters)
            support = batch.support(k, act)
            step = objective.gradient(parameters, *support, recorded=second_order and keeps_all)
            judged = None
            if k and weights[k - 1]:
                judged = times(weights[k - 1], self.judge.gradient(parameters, *batch.query(act), recorded=False).value)
            if goes_back or judged is not None:
                kept.append(_Step(parameters, support, step if keeps_all else None, judged))
            parameters = descend(parameters, step.value, at_step(self.factors, k))
            del step
        x, y = batch.query(acting(objective, parameters))
        losses, outputs, v, _ = self.judge.gradient(parameters, x, y, recorded=False)
        if weights[-1] != 1:
            v = times(weights[-1], v)
        while kept:
            at, k = kept.pop(), len(kept)
            if goes_back:
                step = at.gradient or objective.gradient(at.at, *at.support, recorded=second_order)
                factor = at_step(self.factors, k)
                if self.rates is not None:
                    row = self.rates.row(k)
                    self._slopes[row] = _added(self._slopes[row], times(v, step.value))
                if second_order:
                    v = _back(objective, step, v, factor)
                del step
            if at.judged is not None:
                v = tuple(a + b for a, b in zip(v, at.judged, strict=True))
            del at
        loss = self.judge.loss
        return v, loss.reported(losses, outputs, y), loss.measure(outputs, y)

    def slopes(self) -> Tensor | None:
        """Σ over the tasks of dL_q/dvalues, (Q,)."""
        if self.rates is None:
            return None
        none = self.rates.values.new_zeros(self.rates.places.shape[1])
        rows = [none if slope is None else self.objective.flatten(slope)[0] for slope in self._slopes]
        return self.rates.gather(torch.stack(rows)).neg_()


@torch.no_grad()
def adapt(
    objective: Objective,
    parameters: Parameters,
    batch: Batch,
    lr: float | Rates,
    steps: int,
    trained: int = 0,
    beyond: float = 1.0,
) -> Iterator[Parameters]:
    """Yield the parameters before adaptation and after each of `steps` inner steps. After the first `trained` steps,
    the rates are multiplied by `beyond`."""
    yield parameters
    by_step = factors(objective, lr)

    def factor_of(k: int) -> Factor:
        factor = at_step(by_step, k)
        if k < trained or beyond == 1:
            return factor
        return beyond * factor if isinstance(factor, float) else times(beyond, factor)

    if type(batch) is TaskBatch and (head := Head.of(objective, lr)):
        yield from head.adapt(parameters, batch.support_set, map(factor_of, range(steps)))
        return
    for k in range(steps):
        support = batch.support(k, acting(objective, parameters))
        factor = factor_of(k)
        parameters = descend(parameters, objective.gradient(parameters, *support, recorded=False).value, factor)
        yield parameters


@torch.no_grad()
def learning_curve(
    engine: Engine, theta: Tensor, batch: Batch, adaptation: Callable[[Parameters, Batch], Iterator[Parameters]]
) -> tuple[Tensor, Tensor]:
    """Query losses and metrics, each (steps + 1, B): at θ (P,) before adaptation, and after each inner step.

    `adaptation`: takes initial parameters and a batch; yields the parameters before adaptation and after each step.
    """
    objective, entered = engine.objective, engine.objective.unflatten(theta, 1)
    losses, metrics = [], []
    for part in chunks(batch, engine.chunk, theta):
        curve = []
        for parameters in adaptation(for_tasks(entered, len(part)), part):
            x, y = part.query(acting(objective, parameters))
            loss, outputs = objective.value(parameters, x, y)
            curve.append((objective.loss.reported(loss, outputs, y), objective.loss.measure(outputs, y)))
        losses.append(torch.stack([loss for loss, _ in curve]))
        metrics.append(torch.stack([metric for _, metric in curve]))
    return torch.cat(losses, 1), torch.cat(metrics, 1)


def compiled_parts(
    compiler: Compiler,
    name: Hashable,
    function: Callable[..., tuple[Tensor, ...]],
    batch: Batch,
    size: int,
    *tensors: Tensor,
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the compiled `function(chunk, *tensors)` for each chunk of the batch; `tensors` starts with θ."""

    def of_tensors(*given: Tensor) -> tuple[Tensor, ...]:
        *more, sx, sy, qx, qy = given
        return function(TaskBatch(Samples(sx, sy), Samples(qx, qy)), *more)

    for part in chunks(batch, size, tensors[0]):
        assert type(part) is TaskBatch
        data = (each.contiguous() for each in (*part.support_set, *part.query_set))
        yield compiler(name, of_tensors, *tensors, *data)


def chunks(batch: Batch, size: int, theta: Tensor) -> Iterator[Batch]:
    """Yield the batch in chunks of `size` tasks, on θ's device and in its precision."""
    tasks = len(batch)
    for start in range(0, tasks, size):
        part = batch if size >= tasks else batch.part(slice(start, start + size))
        yield part.to(theta.device, theta.dtype)


def acting(objective: Objective, parameters: Parameters) -> Callable[[Tensor], Tensor]:
    """The model with these parameters, as a function of its inputs."""
    return lambda x: objective.outputs(parameters, x)


def for_tasks(parameters: Parameters, tasks: int) -> Parameters:
    """Expand one task's parameters (1, ...) to many tasks."""
    return tuple(p.expand(tasks, *p.shape[1:]) for p in parameters)


def _back(objective: Objective, step: Gradient, v: Parameters, lr: Factor) -> Parameters:
    """v − H(lr ∘ v)"""
    if isinstance(lr, tuple):
        return descend(v, objective.hessian_vector(step.record, times(lr, v)), 1.0)
    return descend(v, objective.hessian_vector(step.record, v), lr)


def _added(total: Parameters | None, each: Parameters) -> Parameters:
    """Add the sum over the tasks (1, ...) to a total, in place."""
    sums = tuple(e.sum(0, keepdim=True) for e in each)
    return sums if total is None else tuple(a.add_(b) for a, b in zip(total, sums, strict=True))
