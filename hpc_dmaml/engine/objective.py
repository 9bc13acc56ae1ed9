"""The loss of a batch of tasks as a function of each task's own parameters, with its first two derivatives.

B tasks with n samples each: inputs x (B, n, *sample shape), targets y (B, n, ...). `Parameters` is a tuple of tensors
(B, ...), split and ordered as the objective chooses; `unflatten` and `flatten` convert from θ (P,) and to (B, P).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor

from hpc_dmaml.losses import Loss
from hpc_dmaml.parameters import Layout

Parameters = tuple[Tensor, ...]


class Gradient(NamedTuple):
    losses: Tensor
    """Loss of each task, (B,)."""
    outputs: Tensor
    """The model's outputs (B, n, C)."""
    value: Parameters
    """dL/dθ of every task."""
    record: Any
    """What `hessian_vector` needs of the point at which it differentiates; None if it was not requested."""


class Objective(Protocol):
    """L_b(θ_b; x_b, y_b) for b = 1 … B."""

    derivatives: str
    """How derivatives are computed: "layerwise" or "autograd"."""
    layout: Layout
    """Names, shapes and order of the parameters in θ."""

    @property
    def loss(self) -> Loss:
        """The loss function."""
        ...

    def with_loss(self, loss: Loss) -> Objective:
        """The same model with another loss."""
        ...

    def unflatten(self, theta: Tensor, tasks: int) -> Parameters:
        """θ (P,) as the parameters of `tasks` tasks."""
        ...

    def flatten(self, parameters: Parameters) -> Tensor:
        """Each task's parameters as one vector, (B, P)."""
        ...

    def outputs(self, parameters: Parameters, x: Tensor) -> Tensor:
        """The model's outputs (B, n, C)."""
        ...

    def value(self, parameters: Parameters, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (B,) and outputs (B, n, C)."""
        ...

    def gradient(self, parameters: Parameters, x: Tensor, y: Tensor, recorded: bool = True) -> Gradient:
        """Losses and their gradients. `recorded`: keep what `hessian_vector` needs; without it, less memory is used."""
        ...

    def hessian_vector(self, record: Any, v: Parameters) -> Parameters:
        """The Hessian-vector product ∇²L_b v_b of every task."""
        ...
