"""Flatten samples of any shape to vectors: images (n, H, W, C) in the order of PyTorch's channels-first (n, C·H·W)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from hpc_dmaml.engine.layers.layer import LinearMap, Shape


class Flatten(LinearMap):
    """`nn.Flatten` of one sample's axes; it copies, because images are channels-last here."""

    def __init__(self, in_shape: Shape) -> None:
        self.in_shape = in_shape
        self.out_shape = (math.prod(in_shape),)

    @classmethod
    def of(cls, module: nn.Flatten, in_shape: Shape) -> Flatten | None:
        return cls(in_shape) if (module.start_dim, module.end_dim) == (1, -1) else None

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.apply(None, x), None

    def apply(self, tape: None, x: Tensor) -> Tensor:
        return (x.movedim(-1, 2) if len(self.in_shape) == 3 else x).flatten(2)

    def transpose(self, tape: None, y_bar: Tensor) -> Tensor:
        if len(self.in_shape) != 3:
            return y_bar.unflatten(2, self.in_shape)
        *spatial, channels = self.in_shape
        return y_bar.unflatten(2, (channels, *spatial)).movedim(2, -1).contiguous()
