"""y = f(x, w) + g(x, u): a sum of two chains, whose ẏ, x̄ and x̄̇ are sums as well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from hpc_dmaml.engine.layers.chain import Chain, Tape
from hpc_dmaml.engine.layers.layer import Record, Shape, Tensors


class Residual(nn.Module):
    """body(x) + shortcut(x), where the shortcut is by default the identity."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class ResidualSum:
    """The layer for `Residual`; its parameters are those of the body, then those of the shortcut."""

    def __init__(self, body: Chain, shortcut: Chain) -> None:
        self.branches = body, shortcut
        self.out_shape = body.out_shape

    @classmethod
    def of(cls, module: Residual, in_shape: Shape) -> ResidualSum | None:
        from hpc_dmaml.engine.layerwise import chain_of, flattened  # which import this layer

        for branch in (module.body, module.shortcut):
            parts = (part for part in flattened(branch) or () if not isinstance(part, nn.Flatten))  # which gives a view
            if getattr(next(parts, None), "inplace", False):  # it would change the other branch's input
                return None
        body, shortcut = chain_of(module.body, in_shape), chain_of(module.shortcut, in_shape)
        if body is None or shortcut is None or body.out_shape != shortcut.out_shape:
            return None
        return cls(body, shortcut)

    def pack(self, *parameters: Tensor) -> Tensors:
        body, shortcut = (branch.pack(*own) for branch, own in self._each(parameters))
        return body + shortcut

    def forward(self, x: Tensor, *w: Tensor) -> tuple[Tensor, Tape]:
        (y, tape), (more, other) = (branch.forward(x, *own) for branch, own in self._each(w))
        return y + more, Tape([tape, other])  # y = f + g

    def backward(self, tape: Tape, w: Tensors, y_bar: Tensor, need_x: bool) -> tuple[Tensor | None, Tensors]:
        return _joined(  # x̄ = ȳ ∂f/∂x + ȳ ∂g/∂x
            *(
                branch.backward(part, own, y_bar, need_x)
                for (branch, own), part in zip(self._each(w), tape.parts, strict=True)
            )
        )

    def tangent(self, at: Record, x_dot: Tensor | None, w_dot: Tensors) -> tuple[Tensor | None, list[Any]]:
        (y_dot, tape_dot), (more, other) = (
            branch.tangent(at._replace(tape=part), x_dot, own)
            for (branch, own), part in zip(self._each(w_dot), at.tape.parts, strict=True)
        )
        return _sum(y_dot, more), [tape_dot, other]  # ẏ = ḟ + ġ

    def tangent_backward(
        self, at: Record, tape_dot: list[Any], w_dot: Tensors, y_bar_dot: Tensor, need_x: bool
    ) -> tuple[Tensor | None, Tensors]:
        return _joined(  # x̄̇ is the derivative of x̄, term by term
            *(
                branch.tangent_backward(at._replace(tape=part), part_dot, own, y_bar_dot, need_x)
                for (branch, own), part, part_dot in zip(self._each(w_dot), at.tape.parts, tape_dot, strict=True)
            )
        )

    def _each(self, parameters: Tensors) -> Iterator[tuple[Chain, Tensors]]:
        body, shortcut = self.branches
        count = sum(body.counts)
        yield body, parameters[:count]
        yield shortcut, parameters[count:]


def _joined(body: tuple[Tensor | None, Tensors], shortcut: tuple[Tensor | None, Tensors]) -> Any:
    """Combine two branches' (x̄, w̄) to one layer's."""
    (x_bar, w_bar), (more, others) = body, shortcut
    return _sum(x_bar, more), w_bar + others


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b, where None is 0."""
    if a is None or b is None:
        return a if b is None else b
    return a + b
