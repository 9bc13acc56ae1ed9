"""2 × 2 max-pooling as three choices "the second if greater": which one wins is a mask, and the layer a linear map."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hpc_dmaml.engine.layers.layer import LinearMap, Shape


class Choices(NamedTuple):
    """Masks (B, n, H', W', C): in the upper row, in the lower row, and between the rows, is the second one greater?"""

    upper: Tensor
    lower: Tensor
    rows: Tensor


class MaxPool(LinearMap):
    """`nn.MaxPool2d(2)`; a tie goes to the first pixel, as in PyTorch; an odd last row or column is left out."""

    def __init__(self, in_shape: Shape) -> None:
        self.in_shape = in_shape
        self.out_shape = (in_shape[0] // 2, in_shape[1] // 2, in_shape[2])

    @classmethod
    def of(cls, module: nn.MaxPool2d, in_shape: Shape) -> MaxPool | None:
        window = (module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
        known = window in ((2, 2, 0, 1, False), ((2, 2), (2, 2), (0, 0), (1, 1), False)) and len(in_shape) == 3
        return cls(in_shape) if known and min(in_shape[:2]) > 1 else None

    def forward(self, x: Tensor) -> tuple[Tensor, Choices]:
        a, b, c, d = self._corners(x)
        upper, lower = torch.maximum(a, b), torch.maximum(c, d)
        return torch.maximum(upper, lower), Choices(b > a, d > c, lower > upper)

    def apply(self, tape: Choices, x: Tensor) -> Tensor:
        a, b, c, d = self._corners(x)
        return torch.where(tape.rows, torch.where(tape.lower, d, c), torch.where(tape.upper, b, a))

    def transpose(self, tape: Choices, y_bar: Tensor) -> Tensor:
        whole = all(size % 2 == 0 for size in self.in_shape[:2])
        shape = (*y_bar.shape[:2], *self.in_shape)
        x_bar = y_bar.new_empty(shape) if whole else y_bar.new_zeros(shape)
        a, b, c, d = self._corners(x_bar)
        lower = y_bar * tape.rows
        upper = y_bar - lower
        torch.mul(upper, tape.upper, out=b)
        torch.sub(upper, b, out=a)
        torch.mul(lower, tape.lower, out=d)
        torch.sub(lower, d, out=c)
        return x_bar

    def _corners(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Views (B, n, H', W', C) of the four pixels of each window, row by row."""
        height, width = self.out_shape[0] * 2, self.out_shape[1] * 2
        return tuple(x[:, :, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1))  # type: ignore[return-value]
