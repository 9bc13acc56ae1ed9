"""The meta-gradient where only the last layers adapt (ANIL): the first layers are computed once, not in every step.

The body, the layers before the first that adapts, maps the support and the query set to features f_s and f_q, on which
the head adapts its parameters w. With the head's loss L(f, w), the backward pass is that of `meta_gradient` for w, from
v_K = ∂L/∂w(f_q, w_K), and besides

    f̄_q = ∂L/∂f(f_q, w_K),    f̄_s = −Σ_k ∂²L/∂f∂w(f_s, w_k) (α_k∘v_{k+1}).

The body's gradient is that of ⟨f̄_q, f_q⟩ + ⟨f̄_s, f_s⟩: one backward pass through the body for each set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hpc_dmaml.engine.descent import Factor, at_step, descend, times
from hpc_dmaml.engine.layers import Chain, Record
from hpc_dmaml.engine.layers.chain import Tape
from hpc_dmaml.engine.layerwise import LayerwiseObjective, channels_last
from hpc_dmaml.engine.objective import Objective, Parameters
from hpc_dmaml.engine.rates import Rates
from hpc_dmaml.losses import Loss
from hpc_dmaml.tasks import Samples, TaskBatch


class Head:
    """A model cut before its first layer that adapts."""

    def __init__(self, whole: LayerwiseObjective, first: int) -> None:
        """`first`: the number of layers in the body."""
        chain, self.loss = whole.chain, whole.loss
        self.body = Chain(chain.layers[:first], chain.counts[:first], chain.in_shape)
        self.head = Chain(chain.layers[first:], chain.counts[first:], self.body.out_shape)
        self.size = sum(self.body.counts)

    @classmethod
    def of(cls, objective: Objective, lr: float | Rates) -> Head | None:
        """The cut, or None if the first layer with parameters adapts, or derivatives are not layerwise."""
        if not isinstance(objective, LayerwiseObjective) or not isinstance(lr, Rates):
            return None
        bounds = objective.chain.bounds
        adapts = [any(name not in lr.fixed for name in objective.names[start:end]) for start, end in bounds]
        first = adapts.index(True) if True in adapts else 0
        return cls(objective, first) if first > objective.chain.first else None

    def features(self, parameters: Parameters, x: Tensor) -> tuple[Tensor, Tape]:
        """The body's outputs, and its tape."""
        return self.body.forward(channels_last(x), *parameters[: self.size])

    def step(
        self, w: Parameters, features: Tensor, y: Tensor, factor: Factor, recorded: bool
    ) -> tuple[Parameters, Record, Any]:
        """The head's parameters after an inner step, and what `back` needs of it if it is recorded."""
        outputs, tape = self.head.forward(features, *w)
        if not recorded:
            tape.forget()
        _, y_bar, loss_tape = self.loss.gradient(outputs, y)
        _, gradient = self.head.backward(tape, w, y_bar, need_x=recorded)  # `back` needs it down to f
        return descend(w, gradient, self.own(factor)), Record(tape, w, y_bar, gradient), loss_tape

    def back(self, record: Record, loss_tape: Any, v: Parameters, factor: Factor) -> tuple[Tensor, Parameters]:
        """∂²L/∂f∂w (α∘v), and v − ∂²L/∂w² (α∘v)."""
        v_dot = times(self.own(factor), v)
        z_dot, tape_dot = self.head.tangent(record, None, v_dot)
        assert z_dot is not None  # the head's first layer has parameters
        y_bar_dot = self.loss.tangent(loss_tape, z_dot)
        f_bar, product = self.head.tangent_backward(record, tape_dot, v_dot, y_bar_dot, need_x=True)
        assert f_bar is not None
        return f_bar, descend(v, product, 1.0)

    def own(self, factor: Factor) -> Parameters:
        """The head's part of the learning rates."""
        assert isinstance(factor, tuple)  # one for each parameter, as the body has none
        return factor[self.size :]

    def sweep(
        self,
        parameters: Parameters,
        batch: TaskBatch,
        judge: Loss,
        by_step: list[Factor],
        steps: int,
        second_order: bool,
    ) -> tuple[Tensor, Tensor, Parameters]:
        """Query losses (B,) and outputs after adaptation, and dL_q/dθ_0 of every task. `judge`: the query set's loss."""
        body, w = parameters[: self.size], parameters[self.size :]
        (x, y), kept = batch.support_set, []
        support, support_tape = self.features(parameters, x)
        for k in range(steps):
            w, *needed = self.step(w, support, y, at_step(by_step, k), recorded=second_order)
            if second_order:
                kept.append(needed)
        x, y = batch.query_set
        query, query_tape = self.features(parameters, x)
        outputs, tape = self.head.forward(query, *w)
        losses, y_bar, _ = judge.gradient(outputs, y)
        tape.forget()
        f_bar, v = self.head.backward(tape, w, y_bar, need_x=True)
        assert f_bar is not None
        query_tape.forget()
        _, of_body = self.body.backward(query_tape, body, f_bar, need_x=False)
        if kept:
            f_bar = torch.zeros_like(support)
            while kept:
                record, loss_tape = kept.pop()
                product, v = self.back(record, loss_tape, v, at_step(by_step, len(kept)))
                f_bar -= product
            support_tape.forget()
            _, of_support = self.body.backward(support_tape, body, f_bar, need_x=False)
            of_body = tuple(a + b for a, b in zip(of_body, of_support, strict=True))
        return losses, outputs, (*of_body, *v)

    def adapt(self, parameters: Parameters, support: Samples, by_step: Iterator[Factor]) -> Iterator[Parameters]:
        """Yield the parameters after each inner step."""
        body, w = parameters[: self.size], parameters[self.size :]
        features, tape = self.features(parameters, support.x)
        del tape
        for factor in by_step:
            w, *_ = self.step(w, features, support.y, factor, recorded=False)
            yield (*body, *w)
