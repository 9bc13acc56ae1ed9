"""The interface of a loss: its value, its derivatives with respect to the outputs, and a metric.

Shapes: outputs z (B, n, C) and targets (B, n, …) of B tasks with n samples each. Only `value` is required, in
differentiable torch operations; autograd then computes its two derivatives. A loss with its own formulas is faster.
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
    """Base class of losses: a frozen dataclass, whose fields are its settings. A task family has an instance."""

    metric: ClassVar[Metric | None] = None
    """The metric that `measure` computes, if any."""
    targets: ClassVar[Literal["classes", "numbers", "any"]] = "numbers"
    """A sample's target: a class number, as many numbers as there are outputs, or anything that the family chooses."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        value = getattr(cls.__mro__[_place(cls, "gradient")], "value", None)
        is_other = value not in (None, cls.value) and not getattr(value, "__isabstractmethod__", False)
        if is_other and "tangent" not in vars(cls):  # a base class's formulas are of its own value
            cls.gradient, cls.tangent = Loss.gradient, Loss.tangent  # type: ignore[method-assign]

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        check_complete("loss", cls)  # here, because the user's own family creates it
        if _place(cls, "gradient") != _place(cls, "tangent"):
            raise ValueError(
                f"loss: {cls.__name__} must have formulas of its own for both gradient and tangent, which takes the tape of "
                "gradient; or for neither, and autograd computes them"
            )
        return super().__new__(cls)

    @property
    def stops_gradients(self) -> bool:
        """Whether `value` detaches a part, so that finite differences of its gradient differ from its Hessian."""
        return False

    @abstractmethod
    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        """The loss of each task, (B,), usually the mean over its samples. Differentiable by autograd."""

    def measure(self, z: Tensor, targets: Tensor) -> Tensor:
        """The metric of each task, (B,)."""
        return z.new_full((len(z),), float("nan"))

    def mean_prediction(self, z: Tensor) -> Tensor:
        """Outputs (B, n, C) for the mean prediction of k models with outputs z (k, B, n, C); by default their mean."""
        return z.mean(0)

    def reported(self, losses: Tensor, z: Tensor, targets: Tensor) -> Tensor:
        """Each task's loss as logged and as given to weight generators, (B,); by default `losses`."""
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
        """The derivative of dL/dz along z_dot, both (B, n, C)."""
        import torch

        z, z_bar = tape
        if not z_bar.requires_grad:  # the loss is linear in the outputs
            return torch.zeros_like(z_dot)
        # The second derivative is symmetric: a vector-Jacobian product of dL/dz gives its product with z_dot.
        return torch.autograd.grad(z_bar, z, z_dot, retain_graph=True, materialize_grads=True)[0]


def _place(loss: type[Loss], name: str) -> int:
    """The place, in the order in which Python looks for methods, of the class that has this one."""
    return next(place for place, each in enumerate(loss.__mro__) if name in vars(each))
