"""y = x Wᵀ + b: bilinear in (x, W), so every derivative is a sum of the same three products.

W is stored as (out, in), as in PyTorch: a classifier's ȳᵀ x, with few rows, is four times as fast as its transpose.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hpc_dmaml.engine.layers.layer import Record, Shape, Tensors

Pair = tuple[Tensor, Tensor]
BATCHED = torch.bmm, torch.baddbmm, Tensor.baddbmm_
OUTER = torch.mul, torch.addcmul, Tensor.addcmul_
"""The products a b, c + a b and c += a b for matrices, and for a column times a row, where these are 3 × as fast."""


class Linear:
    """`nn.Linear`; packed W is (out, in), packed b is (1, out). The tape is x; a tangent's tape is ẋ."""

    def __init__(self, out_features: int) -> None:
        self.out_shape: Shape = (out_features,)

    @classmethod
    def of(cls, module: nn.Module, in_shape: Shape) -> Linear | None:
        assert isinstance(module, nn.Linear)
        return cls(module.out_features) if in_shape == (module.in_features,) else None

    def pack(self, *parameters: Tensor) -> Tensors:
        weight, *bias = parameters
        return (weight, *(b[None] for b in bias))

    def forward(self, x: Tensor, *w: Tensor) -> tuple[Tensor, Tensor]:
        tape = self.lift(x)
        return self.products(w[1:], (tape, w[0])), tape

    def backward(self, tape: Tensor, w: Tensors, y_bar: Tensor, need_x: bool) -> tuple[Tensor | None, Tensors]:
        x_bar = self.adjoint_x((y_bar, w[0])) if need_x else None
        return x_bar, (self.adjoint_w((tape, y_bar)), *_bias_bar(w, y_bar))

    def tangent(self, at: Record, x_dot: Tensor | None, w_dot: Tensors) -> tuple[Tensor, Tensor | None]:
        if x_dot is None:
            return self.products(w_dot[1:], (at.tape, w_dot[0])), None
        tape_dot = self.lift(x_dot)
        return self.products(w_dot[1:], (at.tape, w_dot[0]), (tape_dot, at.w[0])), tape_dot

    def tangent_backward(
        self, at: Record, tape_dot: Tensor | None, w_dot: Tensors, y_bar_dot: Tensor, need_x: bool
    ) -> tuple[Tensor | None, Tensors]:
        x_bar_dot = self.adjoint_x((y_bar_dot, at.w[0]), (at.y_bar, w_dot[0])) if need_x else None
        both = [(at.tape, y_bar_dot)] + ([] if tape_dot is None else [(tape_dot, at.y_bar)])
        return x_bar_dot, (self.adjoint_w(*both), *_bias_bar(w_dot, y_bar_dot))

    def lift(self, x: Tensor) -> Tensor:
        """Convert x to the form that the products take."""
        return x

    def products(self, bias: Tensors, *pairs: Pair) -> Tensor:
        """b + Σ x Wᵀ over pairs (x, W)."""
        return _sum_of_products(*((x, w.mT) for x, w in pairs), start=bias)

    def adjoint_x(self, *pairs: Pair) -> Tensor:
        """Σ ȳ W over pairs (ȳ, W): as one product if concatenating the factors costs less than adding the products."""
        rows, between, width = *pairs[0][0].shape[1:], pairs[0][1].shape[2]
        if rows * width > 2 * between * (rows + width):
            pairs = (side_by_side(*pairs),)
        return _sum_of_products(*pairs)

    def adjoint_w(self, *pairs: Pair) -> Tensor:
        """Σ ȳᵀ x over pairs (x, ȳ)."""
        x, y_bar = pairs[0]
        if x.shape[-1] < y_bar.shape[-1]:  # the narrow factor goes first: up to six times as fast
            return _sum_of_products(*((x.mT, y_bar) for x, y_bar in pairs)).mT.contiguous()
        return _sum_of_products(*((y_bar.mT, x) for x, y_bar in pairs))


def side_by_side(*pairs: Pair) -> Pair:
    """Concatenate pairs (ȳ, W) to one whose product is the sum of theirs: Σ ȳ W = [ȳ …] [W; …]."""
    return pairs[0] if len(pairs) == 1 else (torch.cat([y for y, _ in pairs], -1), torch.cat([w for _, w in pairs], 1))


def _sum_of_products(*pairs: Pair, start: Tensors = ()) -> Tensor:
    """start + Σ a b over pairs (a, b)."""
    (a, b), *rest = pairs
    product, start_and_product, add_product = BATCHED if a.shape[-1] > 1 else OUTER
    total = start_and_product(start[0], a, b) if start else product(a, b)
    for a, b in rest:
        add_product(total, a, b)
    return total


def _bias_bar(w: Tensors, y_bar: Tensor) -> Tensors:
    return (y_bar.flatten(1, -2).sum(1, keepdim=True),) if len(w) == 2 else ()
