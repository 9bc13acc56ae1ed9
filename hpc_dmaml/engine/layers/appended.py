"""y = (x, p): the input followed by a learned vector, the same for every sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hpc_dmaml.engine.layers.layer import Record, Shape, Tensors


class Append(nn.Module):
    """Append `count` learned numbers, initially `initial`, to every vector, such as a Gaussian policy's log σ."""

    def __init__(self, count: int, initial: float = 0.0) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.full((count,), float(initial)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.values.expand(*x.shape[:-1], -1)], -1)


class Appended:
    """The layer for `Append`; packed p is (1, count). No tape."""

    def __init__(self, width: int, count: int) -> None:
        self.width, self.out_shape = width, (width + count,)

    @classmethod
    def of(cls, module: Append, in_shape: Shape) -> Appended | None:
        return cls(in_shape[0], len(module.values)) if len(in_shape) == 1 else None

    def pack(self, *parameters: Tensor) -> Tensors:
        return (parameters[0][None],)

    def forward(self, x: Tensor, *w: Tensor) -> tuple[Tensor, None]:
        return torch.cat([x, w[0].expand(*x.shape[:-1], -1)], -1), None

    def backward(self, tape: None, w: Tensors, y_bar: Tensor, need_x: bool) -> tuple[Tensor | None, Tensors]:
        x_bar = y_bar[..., : self.width].contiguous() if need_x else None
        return x_bar, (y_bar[..., self.width :].sum(1, keepdim=True),)

    def tangent(self, at: Record, x_dot: Tensor | None, w_dot: Tensors) -> tuple[Tensor, None]:
        if x_dot is None:
            x_dot = at.y_bar.new_zeros(*at.y_bar.shape[:-1], self.width)
        return self.forward(x_dot, *w_dot)

    def tangent_backward(
        self, at: Record, tape_dot: None, w_dot: Tensors, y_bar_dot: Tensor, need_x: bool
    ) -> tuple[Tensor | None, Tensors]:
        return self.backward(None, at.w, y_bar_dot, need_x)
