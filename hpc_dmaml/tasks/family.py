"""The interface of a task family: the source of tasks, and batches with support and query sets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from typing import Self

    import torch

    from hpc_dmaml.losses import Loss
    from hpc_dmaml.tasks.rollouts import Watch

Split = Literal["train", "validation", "test"]

Act = Callable[[Any], Any]
"""The model with each task's current parameters: inputs (B, n, *sample shape) to outputs (B, n, C), no gradients."""


class Samples(NamedTuple):
    """Inputs x (B, n, *sample shape) and targets y (B, n, ...) of B tasks; numpy arrays, or tensors after `to`."""

    x: Any
    y: Any

    def to(self, device: torch.device, dtype: torch.dtype) -> Samples:
        """Convert to tensors: bytes of x to numbers in [0, 1], class numbers to int64, and the rest to `dtype`."""
        import torch

        x = torch.as_tensor(self.x)
        if x.dtype == torch.uint8:  # moved as bytes, a quarter of float32's size
            x = x.to(device).to(dtype).div_(255)
        return Samples(_moved(x, device, dtype, x.dtype), _moved(self.y, device, dtype, torch.int64))


@dataclass(frozen=True)
class Batch(ABC):
    """B tasks, each with a support set and a query set: a frozen dataclass with two methods.

    Both sets may depend on the model with a task's current parameters, as trajectories of a policy do. Every field that
    is an array, a tensor, or a tuple of these has the tasks as its first dimension, so that a batch can be sliced.
    """

    @abstractmethod
    def support(self, step: int, act: Act) -> Samples:
        """The support set for an inner step, counted from 0."""

    @abstractmethod
    def query(self, act: Act) -> Samples:
        """The query set."""

    def watched(self, watch: Watch) -> Self:
        """The same tasks, passing the trajectories of their query set to `watch`, if they have trajectories."""
        return self

    def oracle(self) -> torch.Tensor | None:
        """The metric of a reference policy that knows the tasks, (B,), or None if there is none."""
        return None

    def __len__(self) -> int:
        first = next(_arrays(getattr(self, item.name) for item in fields(self)), None)
        if first is None:
            raise ValueError(f"task: {type(self).__name__} holds no array, whose first dimension would be its tasks")
        return len(first)

    def part(self, tasks: slice) -> Self:
        """The batch with some of the tasks."""
        return self._each(lambda array: array[tasks])

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Convert to tensors (see `Samples.to`); integers outside of samples keep their type."""
        return self._each(lambda array: _moved(array, device, dtype), lambda samples: samples.to(device, dtype))

    def _each(self, array: Callable[[Any], Any], samples: Callable[[Samples], Samples] | None = None) -> Self:
        return replace(self, **{item.name: _mapped(getattr(self, item.name), array, samples) for item in fields(self)})


@dataclass(frozen=True)
class TaskBatch(Batch):
    """Supervised tasks, whose data does not depend on the model."""

    support_set: Samples
    query_set: Samples

    def support(self, step: int, act: Act) -> Samples:
        return self.support_set

    def query(self, act: Act) -> Samples:
        return self.query_set

    @property
    def held_query(self) -> Samples:
        """`query_set` by its former name."""
        return self.query_set

    def __len__(self) -> int:
        return len(self.support_set.x)


def _moved(array: Any, device: torch.device, dtype: torch.dtype, whole: torch.dtype | None = None) -> torch.Tensor:
    """Convert an array to a tensor on the device: real and complex numbers to the precision of `dtype`, whole ones to
    `whole` if it is given; masks stay masks."""
    import torch

    tensor = torch.as_tensor(array)
    if tensor.is_floating_point():
        whole = dtype
    elif tensor.is_complex():
        whole = dtype.to_complex()
    elif tensor.dtype == torch.bool:
        whole = None
    return tensor.to(device, whole)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and len(value.shape) > 0


def _arrays(values: Any) -> Any:
    for value in values:
        if _is_array(value):
            yield value
        elif isinstance(value, tuple):
            yield from _arrays(value)


def _mapped(value: Any, array: Callable[[Any], Any], samples: Callable[[Samples], Samples] | None) -> Any:
    if isinstance(value, Samples):
        return samples(value) if samples is not None else Samples(*map(array, value))
    if _is_array(value):
        return array(value)
    if isinstance(value, tuple):
        parts = [_mapped(part, array, samples) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


class TaskSampler(Protocol):
    """A task family with its data loaded."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one input: (C, H, W) for images, (inputs,) for vectors."""
        ...

    @property
    def outputs(self) -> int:
        """Number of model outputs for one input: the ways, or the dimension of a regression's target."""
        ...

    @property
    def loss(self) -> Loss | str:
        """The loss, or its short name, one of `hpc_dmaml.losses.LOSSES`."""
        ...

    @property
    def block_runs(self) -> int:
        """Number of runs whose training tasks are drawn at once: 1, or more if a task is only a few numbers."""
        ...

    def sample(
        self, split: Split, rng: np.random.Generator, tasks: int, part: slice = slice(None), queries: int | None = None
    ) -> Batch:
        """Draw `part` of a batch of `tasks` tasks.

        The whole batch is drawn from `rng`, then only `part` of it is loaded: ranks that share a batch draw the
        same one and load their own tasks. `queries` replaces the family's number of queries.
        """
        ...


class TaskFamily(ABC):
    """Base class of the configurable families: a frozen dataclass whose fields define the distribution of tasks."""

    block_runs: ClassVar[int] = 1
    """See `TaskSampler`; for a family that is its own sampler."""

    def prepare(self) -> str | None:  # noqa: B027  (most families have nothing to prepare)
        """Prepare the data on this node: download, decode, cache. Called by one rank per node while the others wait.

        May return a digest of the data; the sampler that each rank loads must then have the same `digest`.
        """

    @abstractmethod
    def load(self) -> TaskSampler:
        """Open the prepared data. Raises ValueError if the fields do not fit it.

        Whether a split has enough samples may be checked at its first draw: set-up draws a task of each split in use.
        """
