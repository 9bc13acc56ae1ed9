"""Model-agnostic meta-learning (Finn, Abbeel & Levine, 2017), with two of MAML++'s measures for stable training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any

from hpc_dmaml.algorithms.algorithm import Algorithm
from hpc_dmaml.parameters import Layout
from hpc_dmaml.requirements import count, positive, require

if TYPE_CHECKING:
    from torch import Tensor

    from hpc_dmaml.engine import Engine, MetaGradient, Objective, Parameters, Rates
    from hpc_dmaml.tasks import Batch


@dataclass(frozen=True)
class MAML(Algorithm):
    """A task adapts by gradient descent; the update is the exact gradient of its query loss through the adaptation."""

    inner_lr: float = 0.4
    """Inner learning rate α of the adaptation."""
    inner_steps: int = 1
    """Number of inner steps in training."""
    first_order: bool = False
    """Leave out the second derivatives (first-order MAML)."""
    first_order_runs: int = 0
    """Number of initial runs without second derivatives (MAML++'s derivative-order annealing)."""
    multi_step_runs: int = 0
    """Number of initial runs in which the query loss counts after every inner step: equally in the first run, then with
    weights that shift linearly to the last step alone (MAML++'s multi-step loss)."""
    adapted: tuple[str, ...] = ("*",)
    """Name patterns of the parameters that adapt; the others are meta-learned, but constant within a task."""

    beyond: float = 1.0
    """Factor of the inner learning rates in steps beyond `inner_steps`; reinforcement learning often halves them."""

    def __post_init__(self) -> None:
        positive("algorithm.inner_lr", self.inner_lr)
        positive("algorithm.beyond", self.beyond)
        count("algorithm.inner_steps", self.inner_steps, least=0)
        for name in ("first_order_runs", "multi_step_runs"):
            require(getattr(self, name) >= 0, f"algorithm.{name}", getattr(self, name), "0 or more")

    @property
    def is_second_order(self) -> bool:
        return not self.first_order and self.inner_steps > 0

    def rates(self, layout: Layout) -> float | Rates:
        """The inner learning rates α: one number, or `Rates`. Override it in a subclass for other rates."""
        from hpc_dmaml.engine import rates

        patterns = self.patterns(layout)
        return self.inner_lr if patterns == ("*",) else rates(layout, self.inner_lr, adapted=patterns)

    def patterns(self, layout: Layout) -> tuple[str, ...]:
        """Name patterns of the parameters of this model that adapt."""
        return self.adapted

    def weights(self, run: int) -> tuple[float, ...] | None:
        """Weights of the query loss after each inner step in a run; None if only the last step's counts."""
        if run >= self.multi_step_runs or self.inner_steps < 2:
            return None
        early = (1 - run / self.multi_step_runs) / self.inner_steps
        return (*[early] * (self.inner_steps - 1), 1 - early * (self.inner_steps - 1))

    def learned(self, layout: Layout) -> dict[str, Tensor]:
        rates = self._checked_rates(layout)
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
        """Split φ into θ (P,) and the inner learning rates with their learned values."""
        theta, key = phi[: layout.size], (layout, phi.device, phi.dtype)
        if key not in self._rates:
            rates = self._checked_rates(layout)
            self._rates[key] = rates if isinstance(rates, float) else rates.to(theta)
        rates = self._rates[key]
        if isinstance(rates, float) or not rates.learned:
            return theta, rates
        return theta, rates._replace(values=phi[layout.size :])

    def _checked_rates(self, layout: Layout) -> float | Rates:
        """`rates`, which a subclass may override. Raises ValueError unless it gives a number or `Rates`."""
        from hpc_dmaml.engine import Rates

        rates = self.rates(layout)
        if not isinstance(rates, Rates | Real) or isinstance(rates, bool):
            raise ValueError(f"algorithm: {type(self).__name__}.rates must give a number or Rates, not {rates!r}")
        return rates if isinstance(rates, Rates) else float(rates)

    @cached_property
    def _rates(self) -> dict[Any, float | Rates]:
        """Cache of the rates for each layout of θ, device and precision."""
        return {}
