"""y = x where x is positive, else λ x: all four formulas multiply by the same slope, 1 or λ."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpc_dmaml.engine.layers.layer import LinearMap, Shape


class LeakyReLU(LinearMap):
    """`nn.LeakyReLU`; its derivative at 0 is λ, as in PyTorch. The tape is y, whose sign is that of x."""

    def __init__(self, slope: float, shape: Shape) -> None:
        self.slope, self.out_shape = slope, shape

    @classmethod
    def of(cls, module: nn.LeakyReLU, in_shape: Shape) -> LeakyReLU | None:
        slope = module.negative_slope
        return cls(slope, in_shape) if slope >= 0 else None  # for λ < 0, y does not give the sign of x

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.leaky_relu(x, self.slope)
        return y, y

    def apply(self, tape: Tensor, x: Tensor) -> Tensor:
        return torch.ops.aten.leaky_relu_backward(x, tape, self.slope, True)

    def transpose(self, tape: Tensor, y_bar: Tensor) -> Tensor:
        return self.apply(tape, y_bar)
