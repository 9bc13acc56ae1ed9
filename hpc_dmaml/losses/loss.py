"""What a loss is: it says how far outputs are from targets, how that changes with the outputs, and what else to measure.

Shapes: outputs z (B, n, C) and targets (B, n, …) of B tasks with n samples each. `value` is enough: it is written in
differentiable torch operations, and its two derivatives are then autograd's. A loss that knows them by hand is faster.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hpc_dmaml.importing import check_complete
from hpc_dmaml.losses.metric import Metric

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor


class Loss(ABC):
    """Base of the losses: a frozen dataclass, whose fields are its settings. A task family brings an instance."""

    metric: ClassVar[Metric | None] = None
    """What `measure` gives, if it gives anything."""
    targets: ClassVar[Literal["classes", "numbers", "any"]] = "numbers"
    """What a sample's target is: a class number, as many numbers as there are outputs, or the family's own affair."""

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        check_complete("loss", cls)  # here, as it is the user's family that makes one
        return super().__new__(cls)

    @property
    def stops_gradients(self) -> bool:
        """Does `value` hold a part of itself still, so that its second derivative is not the change of its gradient?"""
        return False

    @abstractmethod
    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        """The loss of each task, (B,): as a rule the mean over its samples. Differentiable by autograd."""

    def measure(self, z: Tensor, targets: Tensor) -> Tensor:
        """The metric of each task, (B,)."""
        return z.new_full((len(z),), float("nan"))

    def mean_prediction(self, z: Tensor) -> Tensor:
        """Outputs (B, n, C) that predict the mean of what several models' outputs z (k, B, n, C) predict: as a rule theirs."""
        return z.mean(0)

    def reported(self, losses: Tensor, z: Tensor, targets: Tensor) -> Tensor:
        """What is logged as the loss of each task, and seen by weight generators, (B,): as a rule the losses."""
        return losses

    def gradient(self, z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Losses (B,), dL/dz (B, n, C), and a tape for `tangent`."""
        import torch

        with torch.enable_grad():
            z = z.detach().requires_grad_()
            losses = self.value(z, targets)
            (z_bar,) = torch.autograd.grad(losses.sum(), z, create_graph=True, materialize_grads=True)
        return losses.detach(), z_bar.detach(), (z, z_bar)

    def tangent(self, tape: Any, z_dot: Tensor) -> Tensor:
        """The change of dL/dz along z_dot, both (B, n, C)."""
        import torch

        z, z_bar = tape
        if not z_bar.requires_grad:  # the loss is linear in the outputs
            return torch.zeros_like(z_dot)
        # The second derivative is symmetric: its product with z_dot from the left is that from the right.
        return torch.autograd.grad(z_bar, z, z_dot, retain_graph=True, materialize_grads=True)[0]
