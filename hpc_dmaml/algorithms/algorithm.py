"""What an algorithm is: one step of learning over tasks, and how a task adapts.

What is learned over tasks is one vector φ: the model's parameters θ (P,), and behind them whatever else the algorithm
learns (Q,), such as inner rates. Exchange, optimizer, checkpoint and file see φ alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hpc_dmaml.parameters import Layout

if TYPE_CHECKING:
    from torch import Tensor

    from hpc_dmaml.engine import Engine, MetaGradient, Objective, Parameters
    from hpc_dmaml.tasks import Batch


class Algorithm(ABC):
    """Base of the algorithms: a frozen dataclass with two methods, or four."""

    @property
    def is_second_order(self) -> bool:
        """Does it ask for second derivatives? Then set-up sees whether the model has them."""
        return False

    def learned(self, layout: Layout) -> dict[str, Tensor]:
        """What is learned besides θ, with its initial values; names with a colon, which no parameter has. Raises
        ValueError where the fields do not fit the model's parameters."""
        return {}

    @abstractmethod
    def update(self, engine: Engine, phi: Tensor, batch: Batch, run: int) -> MetaGradient:
        """One step's update at φ (P + Q,), to be descended along: its sum over the tasks, and how they did.

        `run`: the number of the run, from 0, for what changes over time.
        """

    @abstractmethod
    def adapt(
        self, objective: Objective, phi: Tensor, parameters: Parameters, batch: Batch, steps: int
    ) -> Iterator[Parameters]:
        """The parameters of some tasks before adaptation, which are given, and after each of `steps` steps of it."""


def whole_layout(algorithm: Algorithm, layout: Layout) -> Layout:
    """The layout of φ, from that of θ."""
    more = algorithm.learned(layout)
    return Layout((*layout.names, *more), (*layout.shapes, *(tuple(each.shape) for each in more.values())))
