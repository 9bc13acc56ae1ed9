"""A sequence of layers as one layer, whose formulas apply those of its layers in order or in reverse order."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate, chain, pairwise
from typing import Any

from torch import Tensor

from hpc_dmaml.engine.layers.layer import Layer, Record, Shape, Tensors


@dataclass
class Tape:
    parts: list[Any]
    """The tape of each layer."""
    records: list[Record] | None = field(default_factory=list)
    """Records of the layers that `backward` went through, the last ones; None if no tangent will be computed."""

    def forget(self) -> None:
        """Let `backward` free each tape after use, because no tangent will be computed."""
        self.records = None
        for part in self.parts:
            if isinstance(part, Tape):
                part.forget()


class Chain:
    """A sequence of layers; its parameters are those of its layers in order, `counts[i]` of layer i."""

    def __init__(self, layers: list[Layer], counts: list[int], in_shape: Shape) -> None:
        self.layers, self.counts, self.in_shape = layers, counts, in_shape
        self.out_shape = layers[-1].out_shape if layers else in_shape
        self.bounds = list(pairwise(accumulate(counts, initial=0)))
        self.first = next((i for i, count in enumerate(counts) if count), len(counts))

    def pack(self, *parameters: Tensor) -> Tensors:
        return tuple(chain(*(layer.pack(*w) for layer, w in zip(self.layers, self.by_layer(parameters), strict=True))))

    def forward(self, x: Tensor, *w: Tensor) -> tuple[Tensor, Tape]:
        parts = []
        for layer, own in zip(self.layers, self.by_layer(w), strict=True):
            x, part = layer.forward(x, *own)
            parts.append(part)
        return x, Tape(parts)

    def backward(self, tape: Tape, w: Tensors, y_bar: Tensor, need_x: bool) -> tuple[Tensor | None, Tensors]:
        by_layer, start = self.by_layer(w), 0 if need_x else self.first
        w_bars, records = [], []
        for i in reversed(range(start, len(self.layers))):
            part, own = tape.parts[i], by_layer[i]
            x_bar, w_bar = self.layers[i].backward(part, own, y_bar, need_x=need_x or i > start)
            w_bars.append(w_bar)
            if tape.records is None:
                tape.parts[i] = None
            else:
                records.append(Record(part, own, y_bar, w_bar))
            if x_bar is not None:
                y_bar = x_bar
        if tape.records is not None:
            tape.records = records[::-1]
        return (y_bar if need_x else None), tuple(chain(*reversed(w_bars)))

    def tangent(self, at: Record, x_dot: Tensor | None, w_dot: Tensors) -> tuple[Tensor | None, list[Any]]:
        tapes_dot = []
        for layer, own, direction in self._recorded(at, w_dot):
            x_dot, tape_dot = layer.tangent(own, x_dot, direction)
            tapes_dot.append(tape_dot)
        return x_dot, tapes_dot

    def tangent_backward(
        self, at: Record, tape_dot: list[Any], w_dot: Tensors, y_bar_dot: Tensor, need_x: bool
    ) -> tuple[Tensor | None, Tensors]:
        parts, w_bar_dots = self._recorded(at, w_dot), []
        for i in reversed(range(len(parts))):
            layer, own, direction = parts[i]
            x_bar_dot, w_bar_dot = layer.tangent_backward(own, tape_dot[i], direction, y_bar_dot, need_x or i > 0)
            w_bar_dots.append(w_bar_dot)
            if x_bar_dot is not None:
                y_bar_dot = x_bar_dot
        return (y_bar_dot if need_x else None), tuple(chain(*reversed(w_bar_dots)))

    def by_layer(self, parameters: Tensors) -> list[Tensors]:
        return [parameters[start:end] for start, end in self.bounds]

    def _recorded(self, at: Record, w_dot: Tensors) -> list[tuple[Layer, Record, Tensors]]:
        """The layers that `backward` went through, with their records and directions."""
        records: list[Record] = at.tape.records
        start = len(self.layers) - len(records)
        return list(zip(self.layers[start:], records, self.by_layer(w_dot)[start:], strict=True))
