"""The loss of a batch of tasks as a function of each task's own parameters, with its first two derivatives.

B tasks with n samples each: inputs x (B, n, *sample shape), targets y (B, n, ...). `Parameters` is a tuple of tensors
(B, ...): how they are cut and ordered is the objective's affair; `enter` and `flat` translate from and to (P,).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor

from hpc_dmaml.losses import Loss
from hpc_dmaml.parameters import Layout

Parameters = tuple[Tensor, ...]


class Gradient(NamedTuple):
    losses: Tensor
    """(B,)"""
    outputs: Tensor
    """The model's outputs (B, n, C)."""
    value: Parameters
    """dL/dθ of every task."""
    record: Any
    """What `hessian_vector` needs: the point at which it differentiates. None where it is not wanted."""


class Objective(Protocol):
    """L_b(θ_b; x_b, y_b) for b = 1 … B."""

    derivatives: str
    """How they are computed, in a word."""
    layout: Layout
    """Of θ."""

    @property
    def loss(self) -> Loss:
        """What `value` averages over the samples."""
        ...

    def with_loss(self, loss: Loss) -> Objective:
        """The same model under another loss."""
        ...

    def unflatten(self, theta: Tensor, tasks: int) -> Parameters:
        """The same θ (P,) for every task."""
        ...

    def flatten(self, parameters: Parameters) -> Tensor:
        """One vector a task, (B, P)."""
        ...

    def outputs(self, parameters: Parameters, x: Tensor) -> Tensor:
        """The model's outputs (B, n, C)."""
        ...

    def value(self, parameters: Parameters, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (B,) and outputs (B, n, C)."""
        ...

    def gradient(self, parameters: Parameters, x: Tensor, y: Tensor, recorded: bool = True) -> Gradient:
        """`recorded`: is a Hessian-vector product wanted there? Where not, less memory is taken."""
        ...

    def hessian_vector(self, record: Any, v: Parameters) -> Parameters:
        """∇²L_b v_b of every task."""
        ...
