"""The interface of a layer: a function y = f(x, w) of a batch of tasks, each with its own w, and three derivatives.

Images are channels-last (B, n, H, W, C), vectors (B, n, C): B tasks of n samples. A parameter is a tensor
(B, *packed shape): the packed shape suits the layer's matrix products, and `pack` converts from the module's own
shapes. With a bar for dL/d· and a dot for the derivative along a direction:

    forward            y        = f(x, w)
    backward           x̄, w̄     = ȳ ∂f/∂x, ȳ ∂f/∂w
    tangent            ẏ        = ∂f/∂x ẋ + ∂f/∂w ẇ
    tangent_backward   x̄̇, w̄̇     = the derivative of `backward` along (ẋ, ẇ, ȳ̇)

The last two give a Hessian-vector product: the derivative of a loss's gradient along a direction (the R-operator of
Pearlmutter, 1994). A tape is what `forward` (or `tangent`) stores for its backward. ẋ is None before the first
parameters, since data has no tangent, and x̄ is not needed there either (`need_x` is false).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor

Tensors = tuple[Tensor, ...]
Shape = tuple[int, ...]


class Record(NamedTuple):
    """The values that forward and backward stored at one layer: the point at which tangents are taken."""

    tape: Any
    w: Tensors
    y_bar: Tensor
    w_bar: Tensors


class Layer(Protocol):
    """One layer, bound to the shape of a single sample."""

    out_shape: Shape
    """Shape of one sample's output, channels last."""

    @classmethod
    def of(cls, module: Any, in_shape: Shape) -> Layer | None:
        """The layer for `module` on samples of `in_shape`, or None if the module has an unsupported option."""
        ...

    def pack(self, *parameters: Tensor) -> Tensors:
        """Rearrange the module's parameters, of any dtype, to the packed shapes, without arithmetic."""
        ...

    def forward(self, x: Tensor, *w: Tensor) -> tuple[Tensor, Any]: ...

    def backward(self, tape: Any, w: Tensors, y_bar: Tensor, need_x: bool) -> tuple[Tensor | None, Tensors]: ...

    def tangent(self, at: Record, x_dot: Tensor | None, w_dot: Tensors) -> tuple[Tensor | None, Any]: ...

    def tangent_backward(
        self, at: Record, tape_dot: Any, w_dot: Tensors, y_bar_dot: Tensor, need_x: bool
    ) -> tuple[Tensor | None, Tensors]: ...


class LinearMap:
    """A layer y = A x without parameters, where A may depend on the tape: ẏ = A ẋ, x̄ = Aᵀ ȳ and x̄̇ = Aᵀ ȳ̇."""

    out_shape: Shape

    def pack(self, *parameters: Tensor) -> Tensors:
        return ()

    def apply(self, tape: Any, x: Tensor) -> Tensor:
        """A x"""
        raise NotImplementedError

    def transpose(self, tape: Any, y_bar: Tensor) -> Tensor:
        """Aᵀ ȳ"""
        raise NotImplementedError

    def backward(self, tape: Any, w: Tensors, y_bar: Tensor, need_x: bool) -> tuple[Tensor | None, Tensors]:
        return (self.transpose(tape, y_bar) if need_x else None), ()

    def tangent(self, at: Record, x_dot: Tensor | None, w_dot: Tensors) -> tuple[Tensor | None, None]:
        return (None if x_dot is None else self.apply(at.tape, x_dot)), None

    def tangent_backward(
        self, at: Record, tape_dot: None, w_dot: Tensors, y_bar_dot: Tensor, need_x: bool
    ) -> tuple[Tensor | None, Tensors]:
        return self.backward(at.tape, (), y_bar_dot, need_x)
