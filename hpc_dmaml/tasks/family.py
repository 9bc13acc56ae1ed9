"""What a task family is: where tasks come from, and the two questions that a batch of them answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

Split = Literal["train", "validation", "test"]


class Samples(NamedTuple):
    """Inputs x (B, n, *sample shape) and targets y (B, n, ...) of B tasks; numpy arrays, or tensors after `to`."""

    x: Any
    y: Any

    def to(self, device: torch.device, dtype: torch.dtype) -> Samples:
        """The same as tensors: bytes of x become numbers in [0, 1], class numbers int64, and the rest `dtype`."""
        import torch

        x, y = torch.as_tensor(self.x), torch.as_tensor(self.y)
        if x.dtype == torch.uint8:  # moved as bytes, a quarter of the size
            x = x.to(device).to(dtype).div_(255)
        return Samples(
            x.to(device, dtype if x.is_floating_point() else None),
            y.to(device, dtype if y.is_floating_point() else torch.int64),
        )


@dataclass(frozen=True)
class TaskBatch:
    """B tasks, each with data to adapt on and data to be judged on."""

    support: Samples
    held_query: Samples

    def query(self, adapted: torch.Tensor | None) -> Samples:
        """The query data, given each task's adapted parameters (B, P).

        Supervised tasks have theirs from the start; a family whose query data depends on the adapted parameters
        (rollouts of the adapted policy) sets `needs_adapted` and overrides this.
        """
        return self.held_query

    needs_adapted = False

    def __len__(self) -> int:
        return len(self.support.x)

    def part(self, tasks: slice) -> TaskBatch:
        """Some of the tasks."""
        return TaskBatch(*(Samples(s.x[tasks], s.y[tasks]) for s in (self.support, self.held_query)))

    def to(self, device: torch.device, dtype: torch.dtype) -> TaskBatch:
        """The same tasks as tensors, see `Samples.to`."""
        return TaskBatch(self.support.to(device, dtype), self.held_query.to(device, dtype))


class TaskSampler(Protocol):
    """A task family with its data at hand."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one input: (C, H, W) for images, (inputs,) for vectors."""
        ...

    @property
    def outputs(self) -> int:
        """Numbers that the model gives for one input: the ways, or the dimension of a regression's target."""
        ...

    @property
    def loss(self) -> str:
        """A name in `hpc_dmaml.engine.losses.LOSSES`."""
        ...

    @property
    def block_runs(self) -> int:
        """Runs whose training tasks are drawn at once: 1, or more where a task is but a few numbers."""
        ...

    def sample(
        self, split: Split, rng: np.random.Generator, tasks: int, part: slice = slice(None), queries: int | None = None
    ) -> TaskBatch:
        """`part` of a batch of `tasks` tasks.

        The whole batch is drawn from `rng`, and then only `part` of it is loaded: ranks that share a batch draw the
        same one and load their own tasks. `queries` replaces the family's number of queries.
        """
        ...


class TaskFamily(ABC):
    """Base of the configurable families: a frozen dataclass whose fields say which tasks there are."""

    block_runs: ClassVar[int] = 1
    """See `TaskSampler`, for a family that is its own."""

    def prepare(self) -> str | None:  # noqa: B027  (most families have nothing to prepare)
        """Bring the data to this node: download, decode, cache. Called by one rank a node while the others wait.

        May return a digest of the data; then the `digest` of what every rank loads must be the same.
        """

    @abstractmethod
    def load(self) -> TaskSampler:
        """Open the prepared data. Raises ValueError where the fields ask for what it never has.

        Whether a split has enough may be left to its first draw: set-up draws a task of each split that a job needs.
        """
