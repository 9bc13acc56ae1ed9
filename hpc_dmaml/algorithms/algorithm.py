"""The interface of an algorithm: the update of an outer step, and the adaptation of a task.

The meta-parameters are one vector φ: the model's parameters θ (P,), followed by what else the algorithm learns (Q,),
such as inner learning rates. Communication, optimizer, checkpoint and result file handle φ as a whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hpc_dmaml.importing import saying
from hpc_dmaml.parameters import Layout

if TYPE_CHECKING:
    from torch import Tensor

    from hpc_dmaml.engine import Engine, MetaGradient, Objective, Parameters
    from hpc_dmaml.tasks import Batch


class Algorithm(ABC):
    """Base class of algorithms: a frozen dataclass that defines `update` and `adapt`, and the others where needed."""

    @property
    def is_second_order(self) -> bool:
        """Whether the algorithm needs second derivatives; if so, set-up checks that the model has them."""
        return False

    def learned(self, layout: Layout) -> dict[str, Tensor]:
        """The initial values of what is learned besides θ, by name; a name has a colon, unlike those of parameters.
        Raises ValueError if the algorithm's fields do not fit the model's parameters."""
        return {}

    @abstractmethod
    def update(self, engine: Engine, phi: Tensor, batch: Batch, run: int) -> MetaGradient:
        """The gradient of an outer step at φ (P + Q,), summed over the tasks, with each task's loss and metric.

        `run`: the number of the run, from 0, for schedules.
        """

    @abstractmethod
    def adapt(
        self, objective: Objective, phi: Tensor, parameters: Parameters, batch: Batch, steps: int
    ) -> Iterator[Parameters]:
        """Yield the parameters of the tasks before adaptation, as given, and after each of `steps` inner steps."""


def whole_layout(algorithm: Algorithm, layout: Layout) -> Layout:
    """The layout of φ, given that of θ. Raises ValueError if `learned` has a name that a parameter could have."""
    name = type(algorithm).__name__
    with saying(f"algorithm: {name}.learned must give tensors by name"):
        more = {item: tuple(each.shape) for item, each in algorithm.learned(layout).items()}
    for item in more:
        if ":" not in item:
            raise ValueError(
                f"algorithm: {name}.learned: {item!r} needs a colon, as in 'learned:{item}', which no parameter has"
            )
    return Layout((*layout.names, *more), (*layout.shapes, *more.values()))


def check(algorithm: Algorithm, engine: Engine, phi: Tensor, batch: Batch) -> None:
    """Run an algorithm once at φ on a batch of tasks. Raises ValueError if a method fails or gives a wrong result."""
    from hpc_dmaml.engine import MetaGradient, for_tasks

    objective, before, name = engine.objective, phi.clone(), f"algorithm: {type(algorithm).__name__}"
    start = for_tasks(objective.unflatten(phi[: objective.layout.size], 1), len(batch))
    method = f"{name}.update"
    with saying(f"{method} fails on a task"):
        update = algorithm.update(engine, phi, batch, 0)
        if not isinstance(update, MetaGradient):
            raise ValueError(f"{method} must give a MetaGradient, not {type(update).__name__}")
        _check_like(f"{method}: gradient", update.gradient, phi)
        for item in ("losses", "metric"):
            _check_like(f"{method}: {item}", getattr(update, item), phi.new_empty(len(batch)))
    method = f"{name}.adapt"
    with saying(f"{method} fails on a task"):
        given = list(algorithm.adapt(objective, phi, start, batch, 1))
        if [len(each) for each in given] != [len(start)] * 2:
            raise ValueError(f"{method} must give the parameters before adaptation and after each step of it")
        for mine, other in zip(given[1], start, strict=True):
            _check_like(f"{method}: parameters", mine, other)
    if not bool((phi == before).all()):
        raise ValueError(f"{name} changes φ or the parameters that it is given in place: it must work on copies")


def _check_like(what: str, given: Tensor, like: Tensor) -> None:
    """Raise ValueError unless a tensor has the shape, precision and device of another."""
    mine, other = ((tuple(each.shape), each.dtype, each.device) for each in (given, like))
    if mine != other:
        raise ValueError(f"{what} must be a tensor {_shown(other)}, not {_shown(mine)}")


def _shown(parts: tuple[object, ...]) -> str:
    return " ".join(map(str, parts))
