"""Reptile (Nichol, Achiam & Schulman, 2018): move θ towards the adapted parameters, without derivatives of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_dmaml.algorithms.algorithm import Algorithm
from hpc_dmaml.requirements import count, positive
from hpc_dmaml.tasks.family import Act, Batch, Samples

if TYPE_CHECKING:
    from torch import Tensor

    from hpc_dmaml.engine import Engine, MetaGradient, Objective, Parameters


@dataclass(frozen=True)
class Joined(Batch):
    """Tasks that adapt on their support and query samples together."""

    batch: Batch

    def support(self, step: int, act: Act) -> Samples:
        import torch

        both = self.batch.support(step, act), self.batch.query(act)
        return Samples(*(torch.cat(each, 1) for each in zip(*both, strict=True)))

    def query(self, act: Act) -> Samples:
        return self.batch.query(act)

    def __len__(self) -> int:
        return len(self.batch)


@dataclass(frozen=True)
class Reptile(Algorithm):
    """The update is θ − θ_K, where θ_K are the adapted parameters: SGD of rate ε takes the paper's step towards θ_K.

    With one inner step it is joint training; only further steps make it meta-learning.
    """

    inner_lr: float = 0.1
    """Inner learning rate of the adaptation."""
    inner_steps: int = 5
    """Number of inner steps in training; meta-learning needs more than one."""
    joint: bool = True
    """In training, adapt on the support and query samples together, since the update needs no held-out samples. In
    reinforcement learning, each inner step samples both with its own parameters."""

    def __post_init__(self) -> None:
        positive("algorithm.inner_lr", self.inner_lr)
        count("algorithm.inner_steps", self.inner_steps)

    def update(self, engine: Engine, phi: Tensor, batch: Batch, run: int) -> MetaGradient:
        import torch

        from hpc_dmaml.engine import MetaGradient, acting, chunks, for_tasks

        objective, total, losses, metrics = engine.objective, torch.zeros_like(phi), [], []
        entered = objective.unflatten(phi, 1)
        for part in chunks(batch, engine.chunk, phi):
            start, given = for_tasks(entered, len(part)), Joined(part) if self.joint else part
            *_, adapted = self.adapt(objective, phi, start, given, self.inner_steps)
            total += objective.flatten(tuple(a - b for a, b in zip(start, adapted, strict=True))).sum(0)
            x, y = part.query(acting(objective, adapted))
            loss, outputs = objective.value(adapted, x, y)
            losses.append(objective.loss.reported(loss, outputs, y))
            metrics.append(objective.loss.measure(outputs, y))
        return MetaGradient(total, torch.cat(losses), torch.cat(metrics))

    def adapt(
        self, objective: Objective, phi: Tensor, parameters: Parameters, batch: Batch, steps: int
    ) -> Iterator[Parameters]:
        from hpc_dmaml.engine import adapt

        return adapt(objective, parameters, batch, self.inner_lr, steps)
