"""A worker's TRPO step (Schulman et al., 2015) through the adaptation of its tasks, as in Finn et al., 2017.

Trajectories are sampled once, at φ. The surrogate loss L after adaptation, and the mean divergence of the adapted
policies from those at φ, are then functions of φ. The direction is the natural gradient, by conjugate gradients on
products with the divergence's Hessian; the length is the trust region's, reduced until L decreases within the region.
The products are central differences of the divergence's gradient, which a group evaluates like any meta-gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hpc_dmaml.algorithms import MAML, Algorithm
from hpc_dmaml.engine import Engine, MetaGradient, acting, chunks, for_tasks
from hpc_dmaml.losses import Loss
from hpc_dmaml.losses.policy_gradient import Divergence, PolicyGradient
from hpc_dmaml.optimizers import TRPO
from hpc_dmaml.tasks import Act, Batch, Samples

DIFFERENCE = 3e-3
"""Length of the step of a finite difference in φ. A shorter one would miss a ReLU's kinks, between which the divergence of
the adapted policies is too flat."""


class Held(Batch):
    """Tasks whose samples are drawn once, at the first request, and then stored."""

    def __init__(self, batch: Batch) -> None:
        self._batch, self._drawn = batch, dict[int | None, Samples]()

    def support(self, step: int, act: Act) -> Samples:
        return self._once(step, lambda: self._batch.support(step, act))

    def query(self, act: Act) -> Samples:
        return self._once(None, lambda: self._batch.query(act))

    def _once(self, key: int | None, draw: Callable[[], Samples]) -> Samples:
        if key not in self._drawn:
            self._drawn[key] = draw()
        return self._drawn[key]

    def judged(self, targets: Tensor) -> Held:
        """The same tasks with other query targets."""
        other = Held(self._batch)
        other._drawn = {**self._drawn, None: Samples(self._drawn[None].x, targets)}
        return other

    def __len__(self) -> int:
        return len(self._batch)

    def to(self, device: Any, dtype: Any) -> Held:
        return self


@dataclass(frozen=True)
class _Worker:
    """A worker's tasks as functions of φ."""

    algorithm: MAML
    engine: Engine
    parts: list[Held]
    run: int
    mean: Callable[[Tensor], Tensor]
    """Convert this rank's sum over tasks to the mean over all of the worker's tasks."""

    def gradient(self, phi: Tensor, parts: list[Held], loss: Loss | None = None) -> list[MetaGradient]:
        objective = self.engine.objective
        engine = Engine(objective, keep=self.engine.keep, judge=None if loss is None else objective.with_loss(loss))
        return [self.algorithm.update(engine, phi, part, self.run) for part in parts]

    def outputs(self, phi: Tensor) -> list[Tensor]:
        """The outputs of each part's adapted policies on its query observations."""
        objective, found = self.engine.objective, []
        entered = objective.unflatten(phi[: objective.layout.size], 1)
        for part in self.parts:
            start = for_tasks(entered, len(part))
            *_, adapted = self.algorithm.adapt(objective, phi, start, part, self.algorithm.inner_steps)
            found.append(objective.outputs(adapted, part.query(acting(objective, adapted)).x))
        return found

    def values(self, outputs: list[Tensor], parts: list[Held], loss: Loss) -> float:
        """The mean loss of outputs with the query targets of `parts`."""
        each = [loss.value(z, part.query(_never).y).sum() for z, part in zip(outputs, parts, strict=True)]
        return self.mean(torch.stack(each).sum()[None]).item()


def trust_region_step(
    settings: TRPO,
    algorithm: Algorithm,
    engine: Engine,
    phi: Tensor,
    batch: Batch,
    run: int,
    mean: Callable[[Tensor], Tensor],
) -> tuple[Tensor, MetaGradient]:
    """φ (P,) after the step, and the gradient at φ with this rank's losses and metrics.

    `mean`: converts this rank's sum over tasks to the mean over all of the worker's tasks, on all ranks of its group.
    """
    parts = [Held(part) for part in chunks(batch, engine.chunk, phi)]
    loss = engine.objective.loss
    assert isinstance(loss, PolicyGradient)  # `check` has tested both
    assert isinstance(algorithm, MAML)
    worker = _Worker(algorithm, engine, parts, run, mean)
    found = worker.gradient(phi, parts)
    gradient = mean(_sum(found))
    whole = MetaGradient(gradient, torch.cat([f.losses for f in found]), torch.cat([f.metric for f in found]))
    if not math.isfinite(gradient.sum().item()):
        return torch.full_like(phi, math.nan), whole  # the same on all ranks of the group
    at_start, divergence = worker.outputs(phi), Divergence(loss)
    near = [p.judged(divergence.targets_of(z, p.query(_never).y)) for z, p in zip(at_start, parts, strict=True)]

    def fisher(v: Tensor) -> Tensor:
        h = DIFFERENCE / v.norm().clamp(min=1e-30)
        ahead, behind = (mean(_sum(worker.gradient(phi + s * h * v, near, divergence))) for s in (1, -1))
        return (ahead - behind) / (2 * h) + settings.damping * v

    direction = conjugate_gradients(fisher, gradient, settings.iterations)
    curvature = (direction @ fisher(direction)).item()
    if not (math.isfinite(curvature) and curvature > 0):
        return phi, whole
    step = math.sqrt(2 * settings.divergence / curvature) * direction
    start = worker.values(at_start, parts, loss)
    for trial in range(settings.backtracks):
        there = phi - settings.shrink**trial * step
        outputs = worker.outputs(there)
        is_near = worker.values(outputs, near, divergence) <= settings.divergence
        if is_near and worker.values(outputs, parts, loss) < start:
            return there, whole
    return phi, whole


def conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """Solve A x ≈ b for a symmetric positive definite A given by `product`, v ↦ A v (Hestenes & Stiefel, 1952)."""
    x, r = torch.zeros_like(b), b.clone()
    p, rr = r.clone(), (r @ r).item()
    for _ in range(iterations):
        if rr < 1e-20:
            break
        along = product(p)
        curvature = (p @ along).item()
        if not curvature > 0:  # rounding error in a direction with curvature 0
            break
        x, r = x + rr / curvature * p, r - rr / curvature * along
        before, rr = rr, (r @ r).item()
        p = r + rr / before * p
    return x


def check(loss: Loss, algorithm: Algorithm, clip: float | None) -> None:
    """Raise ValueError if TRPO cannot be used with the loss, the algorithm or `clip`."""
    if not isinstance(loss, PolicyGradient):
        raise ValueError(
            "local_optimizer: TRPO is for reinforcement learning: its trust region is a policy's divergence"
        )
    if loss.form != "log_probability":
        raise ValueError(
            f"task.form must be log_probability with local_optimizer TRPO, not {loss.form}: on trajectories that are held "
            "during its line search, that form's ratio, to the policy itself, is always 1"
        )
    if clip is not None:
        raise ValueError(
            f"clip must be left out with local_optimizer TRPO, which sets its step length itself, not {clip}"
        )
    if not isinstance(algorithm, MAML):
        name = type(algorithm).__name__
        raise ValueError(f"local_optimizer: TRPO needs the gradient of MAML or a subclass, which {name} does not give")
    if algorithm.first_order or algorithm.first_order_runs:
        name = "first_order" if algorithm.first_order else "first_order_runs"
        raise ValueError(
            f"algorithm.{name} must be left out with local_optimizer TRPO: its trust region is that of the policies adapted "
            "from φ, whose divergence has no first-order gradient"
        )
    if algorithm.multi_step_runs:
        raise ValueError(
            f"algorithm.multi_step_runs must be 0 with local_optimizer TRPO, not {algorithm.multi_step_runs}: its trust "
            "region is that of the adapted policies alone"
        )


def _sum(found: list[MetaGradient]) -> Tensor:
    return torch.stack([each.gradient for each in found]).sum(0)


def _never(x: Any) -> Any:
    raise AssertionError("these samples are drawn already")
