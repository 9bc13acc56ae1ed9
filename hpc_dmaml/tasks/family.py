"""What a task family is: where tasks come from, and the two questions that a batch of them answers."""

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
"""The model at each task's current parameters: inputs (B, n, *sample shape) to outputs (B, n, C), without a gradient."""


class Samples(NamedTuple):
    """Inputs x (B, n, *sample shape) and targets y (B, n, ...) of B tasks; numpy arrays, or tensors after `to`."""

    x: Any
    y: Any

    def to(self, device: torch.device, dtype: torch.dtype) -> Samples:
        """The same as tensors: bytes of x become numbers in [0, 1], class numbers int64, and the rest `dtype`."""
        import torch

        x = torch.as_tensor(self.x)
        if x.dtype == torch.uint8:  # moved as bytes, a quarter of the size
            x = x.to(device).to(dtype).div_(255)
        return Samples(_moved(x, device, dtype, x.dtype), _moved(self.y, device, dtype, torch.int64))


@dataclass(frozen=True)
class Batch(ABC):
    """B tasks, each with data to adapt on and data to be judged on: a frozen dataclass with two methods.

    Both may depend on what the model does at a task's current parameters, as trajectories of a policy do. Every field
    that is an array, a tensor, or a tuple of such has the tasks first: so a batch is cut and moved, whatever it holds.
    """

    @abstractmethod
    def support(self, step: int, act: Act) -> Samples:
        """What the tasks adapt on in an inner step, counted from 0."""

    @abstractmethod
    def query(self, act: Act) -> Samples:
        """What the tasks are judged on."""

    def watched(self, watch: Watch) -> Self:
        """The same tasks, which tell `watch` of the trajectories that they are judged on, where they are judged on such."""
        return self

    def oracle(self) -> torch.Tensor | None:
        """The metric of who knows the tasks, (B,), where that can be told."""
        return None

    def __len__(self) -> int:
        first = next(_arrays(getattr(self, item.name) for item in fields(self)), None)
        if first is None:
            raise ValueError(f"task: {type(self).__name__} holds no array, whose first dimension would be its tasks")
        return len(first)

    def part(self, tasks: slice) -> Self:
        """Some of the tasks."""
        return self._each(lambda array: array[tasks])

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """The same tasks as tensors, see `Samples.to`; whole numbers outside of samples stay what they are."""
        return self._each(lambda array: _moved(array, device, dtype), lambda samples: samples.to(device, dtype))

    def _each(self, array: Callable[[Any], Any], samples: Callable[[Samples], Samples] | None = None) -> Self:
        return replace(self, **{item.name: _mapped(getattr(self, item.name), array, samples) for item in fields(self)})


@dataclass(frozen=True)
class TaskBatch(Batch):
    """Supervised tasks, whose data is there from the start."""

    support_set: Samples
    query_set: Samples

    def support(self, step: int, act: Act) -> Samples:
        return self.support_set

    def query(self, act: Act) -> Samples:
        return self.query_set

    @property
    def held_query(self) -> Samples:
        """`query_set`, by the name that it had before."""
        return self.query_set

    def __len__(self) -> int:
        return len(self.support_set.x)


def _moved(array: Any, device: torch.device, dtype: torch.dtype, whole: torch.dtype | None = None) -> torch.Tensor:
    """An array as a tensor on the device: real numbers of this precision, others of type `whole`, if it is given."""
    import torch

    tensor = torch.as_tensor(array)
    return tensor.to(device, dtype if tensor.is_floating_point() else whole)


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
    def loss(self) -> Loss | str:
        """What is minimised, and measured besides; or its short name, one of `hpc_dmaml.losses.LOSSES`."""
        ...

    @property
    def block_runs(self) -> int:
        """Runs whose training tasks are drawn at once: 1, or more where a task is but a few numbers."""
        ...

    def sample(
        self, split: Split, rng: np.random.Generator, tasks: int, part: slice = slice(None), queries: int | None = None
    ) -> Batch:
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
