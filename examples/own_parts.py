r"""Your own version of every part of a job: task family, loss and metric, model, two algorithms, λ, optimizer, and schedule.

A mass on a spring rings down after a push. From ten readings of a sensor, some of them wrong, the model predicts the
position at any other time. Each spring is a task. From the root of the repository:

    mpirun -n 2 python -m hpc_dmaml --task examples.own_parts.Ringdown \
        --model Module --model.path examples.own_parts.Net --model.arguments.width 40 \
        --algorithm examples.own_parts.Falling --algorithm.inner_lr 0.1 --algorithm.inner_steps 3 \
        --weight_generator examples.own_parts.SoftMin --schedule examples.own_parts.InverseRoot \
        --optimizer.lr 0.003 --tasks 8 --runs 600 --validation.every 100 --output results/ringdown.h5
    python -m hpc_dmaml.evaluate results/ringdown.h5 --trust

takes half a minute; over three inner steps the worst error falls from 1.20 to 0.60 cm. `--task.help
examples.own_parts.Ringdown` explains the fields of a class. The result file names these classes, and using it runs
their code, so that you have to state that you trust it:

    model = hpc_dmaml.load("results/ringdown.h5", trust=True)
    spring = model.adapt(times, readings)  # (n, 1) each; an ordinary torch.nn.Module
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hpc_dmaml.algorithms import MAML, Algorithm
from hpc_dmaml.engine import Engine, MetaGradient, Objective, Parameters, Rates, acting, rates
from hpc_dmaml.losses import Loss, Metric
from hpc_dmaml.optimizers import Optimizer
from hpc_dmaml.parameters import Layout
from hpc_dmaml.schedules import Schedule
from hpc_dmaml.tasks import Batch, Samples, Split, TaskBatch, TaskFamily
from hpc_dmaml.weight_generators import WeightGenerator


@dataclass(frozen=True)
class Huber(Loss):
    """Squared near the target, linear far from it, so that wrong readings have a bounded gradient. In cm."""

    delta: float = 0.5
    """Error from which on it is linear, in cm."""

    metric = Metric("worst error", "cm", higher_is_better=False)

    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        """The loss of each of B tasks from outputs and targets (B, n, 1). Autograd computes its derivatives."""
        return nn.functional.huber_loss(z, targets, reduction="none", delta=self.delta).mean((1, 2))

    def measure(self, z: Tensor, targets: Tensor) -> Tensor:
        """The metric of each task, (B,)."""
        return (z - targets).abs().amax((1, 2))


@dataclass(frozen=True)
class Ringdown(TaskFamily):
    """Positions A exp(−t/τ) cos(ωt) of a mass on a spring, over 6 s."""

    readings: int = 10
    """Number of readings in the support set."""
    wrong: float = 0.1
    """Share of the readings that are wrong by a few cm."""

    # The attributes of a TaskSampler: this family has no data to load, so that it is its own sampler.
    sample_shape = (1,)
    outputs = 1
    loss = Huber()

    def load(self) -> Ringdown:
        if not 0 <= self.wrong <= 1:
            raise ValueError(f"task.wrong must be from 0 to 1, not {self.wrong}")
        return self

    def sample(
        self, split: Split, rng: np.random.Generator, tasks: int, part: slice = slice(None), queries: int | None = None
    ) -> TaskBatch:
        """Times t and positions, both (B, n, 1). All random numbers come from `rng`, and all tasks are drawn, whatever
        the part, so that the result does not depend on the number of ranks. The splits are the same distribution."""
        amplitude, decay, omega = (
            rng.uniform(*r, (tasks, 1, 1)) for r in ((1.0, 4.0), (2.0, 6.0), (1.5, 3.0))
        )  # cm, s, 1/s
        t = rng.uniform(0, 6, (tasks, self.readings + (queries or 30), 1))
        position = amplitude * np.exp(-t / decay) * np.cos(omega * t)
        read = position[:, : self.readings] + rng.normal(0, 0.05, (tasks, self.readings, 1))
        read += rng.normal(0, 3, read.shape) * (rng.random(read.shape) < self.wrong)
        support, query = (
            Samples(t[:, : self.readings], read),
            Samples(t[:, self.readings :], position[:, self.readings :]),
        )
        return TaskBatch(support, query).part(part)


class Net(nn.Module):
    """An ordinary module; it gets --model.arguments, and `sample_shape` and `outputs` if it has such parameters."""

    def __init__(self, outputs: int, width: int = 40) -> None:
        super().__init__()
        self.waves = nn.Linear(1, width)
        self.body, self.head = nn.Linear(width, width), nn.Linear(width, outputs)
        nn.init.uniform_(self.waves.weight, 0, 3)  # 1/s

    def forward(self, t: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.body(torch.sin(self.waves(t)))))
        return out


@dataclass(frozen=True)
class Falling(MAML):
    """MAML with an inner rate that decreases from step to step. Steps beyond those of training use the last rate."""

    factor: float = 0.7
    """Ratio of a step's rate to that of the step before."""

    def rates(self, layout: Layout) -> Rates:
        steps = max(1, self.inner_steps)
        same = rates(
            layout, self.inner_lr, "all", steps, adapted=self.patterns(layout)
        )  # learned=True would learn them
        return same._replace(values=same.values * self.factor ** torch.arange(steps))


@dataclass(frozen=True)
class Proximal(Algorithm):
    """A task minimises its support loss plus strength/2 · |θ_k − θ|². The gradient of the minimum with respect to θ is
    strength · (θ − θ_K), without second derivatives (Meta-MinibatchProx, Zhou et al., 2019)."""

    inner_lr: float = 0.02
    inner_steps: int = 5
    strength: float = 0.5
    """How strongly a task is held near θ."""

    def adapt(
        self, objective: Objective, phi: Tensor, parameters: Parameters, batch: Batch, steps: int
    ) -> Iterator[Parameters]:
        """The parameters of B tasks, tensors (B, …), before adaptation and after each step."""
        start = parameters
        yield parameters
        for step in range(steps):
            x, y = batch.support(step, acting(objective, parameters))
            gradient = objective.gradient(parameters, x, y, recorded=False).value
            parameters = tuple(
                p - self.inner_lr * (g + self.strength * (p - s))
                for p, g, s in zip(parameters, gradient, start, strict=True)
            )
            yield parameters

    def update(self, engine: Engine, phi: Tensor, batch: Batch, run: int) -> MetaGradient:
        """The sum over the tasks (P,), with each task's query loss and metric after adaptation (B,)."""
        objective, batch = engine.objective, batch.to(phi.device, phi.dtype)
        start = objective.unflatten(phi, len(batch))
        *_, adapted = self.adapt(objective, phi, start, batch, self.inner_steps)
        x, y = batch.query(acting(objective, adapted))
        losses, outputs = objective.value(adapted, x, y)
        gradient = self.strength * (objective.flatten(start) - objective.flatten(adapted)).sum(0)
        return MetaGradient(gradient, losses, objective.loss.measure(outputs, y))


@dataclass(frozen=True)
class SoftMin(WeightGenerator):
    """λ ∝ exp(−loss / (temperature · mean loss)): larger weights for workers with a smaller loss."""

    temperature: float = 1.0

    def weights(self, losses: np.ndarray, memory: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
        """λ (W,) up to a factor, from the workers' losses (W,)."""
        return np.exp(-losses / (self.temperature * losses.mean()))


@dataclass(frozen=True)
class Lion(Optimizer):
    """Steps of one length for all parameters, along the sign of a momentum (Chen et al., 2023)."""

    lr: float = 0.001
    """Length of a step in each parameter."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Share of the momentum in the step, and what of the momentum remains."""

    def build(self, theta: nn.Parameter) -> torch.optim.Optimizer:
        return _Lion([theta], {"lr": self.lr, "betas": self.betas})


class _Lion(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            of_step, of_momentum = group["betas"]
            for theta in group["params"]:
                momentum = self.state[theta].setdefault("momentum", torch.zeros_like(theta))
                theta -= group["lr"] * torch.lerp(theta.grad, momentum, of_step).sign()
                momentum.lerp_(theta.grad, 1 - of_momentum)


@dataclass(frozen=True)
class InverseRoot(Schedule):
    """1/√(1 + run/half): after `half` runs the rates are 0.7 of the initial ones."""

    half: int = 500

    def shape(self, run: int) -> float:
        return (1 + run / self.half) ** -0.5
