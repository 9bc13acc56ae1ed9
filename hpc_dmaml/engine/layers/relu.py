"""y = max(x, 0): all four formulas multiply by the same mask."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hpc_dmaml.engine.layers.layer import LinearMap, Shape


class ReLU(LinearMap):
    """`nn.ReLU`; its derivative at 0 is 0, as in PyTorch. The tape is y, whose sign is the mask."""

    def __init__(self, shape: Shape) -> None:
        self.out_shape = shape

    @classmethod
    def of(cls, module: nn.ReLU, in_shape: Shape) -> ReLU:
        return cls(in_shape)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.relu()
        return y, y

    def apply(self, tape: Tensor, x: Tensor) -> Tensor:
        return torch.ops.aten.threshold_backward(x, tape, 0)

    def transpose(self, tape: Tensor, y_bar: Tensor) -> Tensor:
        return self.apply(tape, y_bar)
