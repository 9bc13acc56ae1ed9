"""y = x W + b: bilinear in (x, W), so every derivative is the same products again."""

from __future__ import annotations

from torch import Tensor, nn

from hpc_dmaml.engine.layers.layer import Record, Shape, Tensors


class Linear:
    """`nn.Linear`; packed W is (in, out), packed b is (1, out). The tape is x, that of a tangent ẋ."""

    def __init__(self, out_features: int) -> None:
        self.out_shape: Shape = (out_features,)

    @classmethod
    def of(cls, module: nn.Module, in_shape: Shape) -> Linear | None:
        assert isinstance(module, nn.Linear)
        return cls(module.out_features) if in_shape == (module.in_features,) else None

    def pack(self, *parameters: Tensor) -> Tensors:
        weight, *bias = parameters
        return (weight.T, *(b[None] for b in bias))

    def forward(self, x: Tensor, *w: Tensor) -> tuple[Tensor, Tensor]:
        return (x.bmm(w[0]) if len(w) == 1 else w[1].baddbmm(x, w[0])), x

    def backward(self, tape: Tensor, w: Tensors, y_bar: Tensor, need_x: bool) -> tuple[Tensor | None, Tensors]:
        bias_bar = (y_bar.sum(1, keepdim=True),) if len(w) == 2 else ()
        return (y_bar.bmm(w[0].mT) if need_x else None), (tape.mT.bmm(y_bar), *bias_bar)

    def tangent(self, at: Record, x_dot: Tensor | None, w_dot: Tensors) -> tuple[Tensor, Tensor | None]:
        y_dot, _ = Linear.forward(self, at.tape, *w_dot)
        return (y_dot if x_dot is None else y_dot.baddbmm_(x_dot, at.w[0])), x_dot

    def tangent_backward(
        self, at: Record, tape_dot: Tensor | None, w_dot: Tensors, y_bar_dot: Tensor, need_x: bool
    ) -> tuple[Tensor | None, Tensors]:
        x_bar_dot, w_bar_dot = Linear.backward(self, at.tape, at.w, y_bar_dot, need_x)
        if x_bar_dot is not None:
            x_bar_dot.baddbmm_(at.y_bar, w_dot[0].mT)
        if tape_dot is not None:
            w_bar_dot[0].baddbmm_(tape_dot.mT, at.y_bar)
        return x_bar_dot, w_bar_dot
