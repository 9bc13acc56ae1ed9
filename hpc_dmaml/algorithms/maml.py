"""Model-agnostic meta-learning (Finn, Abbeel & Levine, 2017), and the two ways in which MAML++ makes it steadier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hpc_dmaml.algorithms.algorithm import Algorithm
from hpc_dmaml.parameters import Layout
from hpc_dmaml.requirements import positive, require

if TYPE_CHECKING:
    from torch import Tensor

    from hpc_dmaml.engine import Engine, MetaGradient, Objective, Parameters, Rates
    from hpc_dmaml.tasks import Batch


@dataclass(frozen=True)
class MAML(Algorithm):
    """A task adapts by gradient descent; the update is the exact gradient of its query loss, through the adaptation."""

    inner_lr: float = 0.4
    """Inner learning rate α of the adaptation."""
    inner_steps: int = 1
    """Inner steps in training."""
    first_order: bool = False
    """Leave out the second derivatives (first-order MAML)."""
    first_order_runs: int = 0
    """Leave them out in so many first runs (MAML++'s derivative-order annealing)."""
    multi_step_runs: int = 0
    """In so many first runs the query loss counts after every inner step: equally at first, and in equal steps ever more
    after the last one alone (MAML++'s multi-step loss)."""
    adapted: tuple[str, ...] = ("*",)
    """Which parameters adapt, by patterns of their names; the others are learned over tasks, and stay as they are within
    one."""

    beyond: float = 1.0
    """Factor of the inner rates in steps beyond those of training; reinforcement learning often halves them."""

    def __post_init__(self) -> None:
        positive("algorithm.inner_lr", self.inner_lr)
        positive("algorithm.beyond", self.beyond)
        for name in ("inner_steps", "first_order_runs", "multi_step_runs"):
            require(getattr(self, name) >= 0, f"algorithm.{name}", getattr(self, name), "0 or more")

    @property
    def is_second_order(self) -> bool:
        return not self.first_order and self.inner_steps > 0

    def rates(self, layout: Layout) -> float | Rates:
        """α: one number, or more. A kind of rates of its own is this method in another class."""
        from hpc_dmaml.engine import rates

        patterns = self.patterns(layout)
        return self.inner_lr if patterns == ("*",) else rates(layout, self.inner_lr, adapted=patterns)

    def patterns(self, layout: Layout) -> tuple[str, ...]:
        """`adapted`, for the parameters of this model."""
        return self.adapted

    def weights(self, run: int) -> tuple[float, ...] | None:
        """How much the query loss counts after each inner step in a run; None for after the last alone."""
        if run >= self.multi_step_runs or self.inner_steps < 2:
            return None
        early = (1 - run / self.multi_step_runs) / self.inner_steps
        return (*[early] * (self.inner_steps - 1), 1 - early * (self.inner_steps - 1))

    def learned(self, layout: Layout) -> dict[str, Tensor]:
        rates = self.rates(layout)
        return {} if isinstance(rates, float) or not rates.learned else rates.layout.views(rates.values)

    def update(self, engine: Engine, phi: Tensor, batch: Batch, run: int) -> MetaGradient:
        import torch

        from hpc_dmaml.engine import InnerLoop, meta_gradient

        theta, rates = self._parts(engine.objective.layout, phi)
        first_order = self.first_order or run < self.first_order_runs
        inner = InnerLoop(rates, self.inner_steps, first_order, self.weights(run))
        found = meta_gradient(engine, theta, batch, inner)
        return found if found.rates is None else found._replace(gradient=torch.cat([found.gradient, found.rates]))

    def adapt(
        self, objective: Objective, phi: Tensor, parameters: Parameters, batch: Batch, steps: int
    ) -> Iterator[Parameters]:
        from hpc_dmaml.engine import adapt

        rates = self._parts(objective.layout, phi)[1]
        return adapt(objective, parameters, batch, rates, steps, self.inner_steps, self.beyond)

    def _parts(self, layout: Layout, phi: Tensor) -> tuple[Tensor, float | Rates]:
        """θ (P,), and the rates, with their learned values."""
        theta, key = phi[: layout.size], (layout, phi.device)
        if key not in self._rates:
            rates = self.rates(layout)
            self._rates[key] = rates if isinstance(rates, float) else rates.to(theta)
        rates = self._rates[key]
        if isinstance(rates, float) or not rates.learned:
            return theta, rates
        return theta, rates._replace(values=phi[layout.size :])

    @cached_property
    def _rates(self) -> dict[Any, float | Rates]:
        """Those that were made already, with their places in θ."""
        return {}
