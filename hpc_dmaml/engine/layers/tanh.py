"""y = tanh x, with the derivative 1 − y²."""

from __future__ import annotations

from torch import Tensor, nn

from hpc_dmaml.engine.layers.layer import Record, Shape, Tensors


class Tanh:
    """`nn.Tanh`. The tape is y; a tangent's tape is ẏ."""

    def __init__(self, shape: Shape) -> None:
        self.out_shape = shape

    @classmethod
    def of(cls, module: nn.Tanh, in_shape: Shape) -> Tanh:
        return cls(in_shape)

    def pack(self, *parameters: Tensor) -> Tensors:
        return ()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.tanh()
        return y, y

    def backward(self, tape: Tensor, w: Tensors, y_bar: Tensor, need_x: bool) -> tuple[Tensor | None, Tensors]:
        return (_scaled(y_bar, tape) if need_x else None), ()

    def tangent(self, at: Record, x_dot: Tensor | None, w_dot: Tensors) -> tuple[Tensor | None, Tensor | None]:
        y_dot = None if x_dot is None else _scaled(x_dot, at.tape)
        return y_dot, y_dot

    def tangent_backward(
        self, at: Record, tape_dot: Tensor | None, w_dot: Tensors, y_bar_dot: Tensor, need_x: bool
    ) -> tuple[Tensor | None, Tensors]:
        if not need_x:
            return None, ()
        x_bar_dot = _scaled(y_bar_dot, at.tape)
        if tape_dot is not None:
            x_bar_dot.addcmul_(at.y_bar * at.tape, tape_dot, value=-2)
        return x_bar_dot, ()


def _scaled(x: Tensor, y: Tensor) -> Tensor:
    """x (1 − y²)"""
    return x.addcmul(x * y, y, value=-1)
