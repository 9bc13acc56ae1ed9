"""Squared error, for regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpc_dmaml.losses.loss import Loss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SquaredError(Loss):
    """Mean squared error over samples and outputs; targets are (B, n, C)."""

    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        return (z - targets).square().mean((1, 2))

    def gradient(self, z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Any]:
        error = z - targets
        return error.square().mean((1, 2)), error * (2 * len(error) / error.numel()), error

    def tangent(self, tape: Any, z_dot: Tensor) -> Tensor:
        return z_dot * (2 * len(tape) / tape.numel())
