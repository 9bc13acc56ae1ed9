"""Losses of a batch of tasks, with the two derivatives that the engine needs.

Shapes: outputs z (B, n, C) and targets of B tasks with n samples each; a task's loss is the mean over its samples.
`value` is written in differentiable torch operations, so that any module can be trained on it through autograd;
`gradient` and `tangent` say the same by hand for the layerwise path.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Loss(Protocol):
    """What a task family asks the model to minimise."""

    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of each task, (B,), differentiable by autograd."""
        ...

    def accuracy(self, z: Tensor, targets: Tensor) -> Tensor:
        """Share of right answers of each task, (B,); NaN where there is no such thing."""
        ...


class LayerwiseLoss(Loss, Protocol):
    """A loss that the layerwise path can differentiate twice."""

    def gradient(self, z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses (B,), dL/dz (B, n, C), and a tape for `tangent`."""
        ...

    def tangent(self, tape: Tensor, z_dot: Tensor) -> Tensor:
        """The change of dL/dz along z_dot, both (B, n, C)."""
        ...


class CrossEntropy:
    """Mean softmax cross-entropy; targets are class numbers (B, n) int64."""

    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(z.transpose(1, 2), targets, reduction="none").mean(1)

    def accuracy(self, z: Tensor, targets: Tensor) -> Tensor:
        return (z.argmax(-1) == targets).to(z.dtype).mean(1)

    def gradient(self, z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_p = torch.log_softmax(z, -1)
        index = targets.unsqueeze(-1)
        losses = -log_p.gather(-1, index).squeeze(-1).mean(1)
        p = log_p.exp()
        z_bar = p.scatter_add(-1, index, p.new_full((), -1.0).expand(index.shape)).div_(z.shape[1])
        return losses, z_bar, p

    def tangent(self, tape: Tensor, z_dot: Tensor) -> Tensor:
        p = tape
        change = p * z_dot
        return change.addcmul_(p, change.sum(-1, keepdim=True), value=-1).div_(p.shape[1])


class SquaredError:
    """Mean squared error over samples and outputs; targets are (B, n, C)."""

    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        return (z - targets).square().mean((1, 2))

    def accuracy(self, z: Tensor, targets: Tensor) -> Tensor:
        return z.new_full((len(z),), float("nan"))

    def gradient(self, z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        error = z - targets
        return error.square().mean((1, 2)), error * (2 / error[0].numel()), error

    def tangent(self, tape: Tensor, z_dot: Tensor) -> Tensor:
        return z_dot * (2 / tape[0].numel())


LOSSES: dict[str, LayerwiseLoss] = {"cross_entropy": CrossEntropy(), "squared_error": SquaredError()}
"""The losses that a task family can ask for by name."""
