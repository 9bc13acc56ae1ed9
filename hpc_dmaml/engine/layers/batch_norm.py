"""Batch norm over the samples (and pixels) of the current batch, each task by itself.

Over the M rows of a channel, with c = x − mean x, s = 1/√(mean c² + ε), n = s c and the scale a = γ s:

    y  = a c + β                                   γ̄ = s Σ ȳ c,   β̄ = Σ ȳ
    x̄  = a (ȳ − β̄/M − n γ̄/M)
    ẏ  = a (ẋ − mean ẋ) + ȧ c + β̇                  ṡ = −s³ mean(c ẋ),   ȧ = γ̇ s + γ ṡ
    γ̄̇  = s Σ ȳ̇ c + Σ ȳ ṅ,   β̄̇ = Σ ȳ̇                ṅ = s (ẋ − mean ẋ) + ṡ c

and x̄̇ is x̄ differentiated. Every sum over rows comes first; the rest is a few tensors, each times one number a
channel, added up.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hpc_dmaml.engine.layers.layer import Record, Shape, Tensors

ONE_PASS_BYTES = 1 << 23
"""Of one task's activations, beyond which the backward of PyTorch's batch norm, one pass over memory, is the faster way to sum."""
ROWS = 1 << 13
"""In one call of it: it adds them up in single precision, one after another."""


class Tape(NamedTuple):
    c: Tensor
    """(B, M, C)"""
    s: Tensor
    """(B, 1, C)"""


class TapeDot(NamedTuple):
    x: Tensor
    """ẋ (B, M, C)"""
    mean: Tensor
    """mean ẋ (B, 1, C)"""
    s: Tensor
    """ṡ (B, 1, C)"""


class BatchNorm:
    """`nn.BatchNorm1d` and `2d` on batch statistics; packed γ and β are (1, C)."""

    def __init__(self, shape: Shape, eps: float) -> None:
        self.out_shape = shape
        self.eps = eps

    @classmethod
    def of(cls, module: nn.BatchNorm1d | nn.BatchNorm2d, in_shape: Shape) -> BatchNorm | None:
        dimensions = 3 if isinstance(module, nn.BatchNorm2d) else 1
        known = module.affine and len(in_shape) == dimensions and in_shape[-1] == module.num_features
        return cls(in_shape, module.eps) if known else None

    def pack(self, *parameters: Tensor) -> Tensors:
        return tuple(p[None] for p in parameters)

    def forward(self, x: Tensor, *w: Tensor) -> tuple[Tensor, Tape]:
        gamma, beta = w
        x = x.flatten(1, -2)
        rows = x.shape[1]
        c = x - total(x) / rows
        s = (sums(c, c)[1] / rows + self.eps).rsqrt_()
        return self._image(combined(beta, (c, gamma * s))), Tape(c, s)

    def backward(self, tape: Tape, w: Tensors, y_bar: Tensor, need_x: bool) -> tuple[Tensor | None, Tensors]:
        c, s = tape
        y_bar = y_bar.flatten(1, -2)
        beta_bar, gamma_bar = sums(y_bar, c)
        gamma_bar = gamma_bar * s
        if not need_x:
            return None, (gamma_bar, beta_bar)
        a, rows = w[0] * s, c.shape[1]
        x_bar = combined(a * beta_bar / -rows, (y_bar, a), (c, a * s * gamma_bar / -rows))
        return self._image(x_bar), (gamma_bar, beta_bar)

    def tangent(self, at: Record, x_dot: Tensor | None, w_dot: Tensors) -> tuple[Tensor, TapeDot | None]:
        (c, s), gamma, (gamma_dot, beta_dot) = at.tape, at.w[0], w_dot
        if x_dot is None:
            return self._image(combined(beta_dot, (c, gamma_dot * s))), None
        x_dot, rows = x_dot.flatten(1, -2), c.shape[1]
        mean, s_dot = (each / rows for each in sums(x_dot, c))
        s_dot *= -(s**3)
        a, a_dot = gamma * s, gamma_dot * s + gamma * s_dot
        return self._image(combined(beta_dot - a * mean, (x_dot, a), (c, a_dot))), TapeDot(x_dot, mean, s_dot)

    def tangent_backward(
        self, at: Record, tape_dot: TapeDot | None, w_dot: Tensors, y_bar_dot: Tensor, need_x: bool
    ) -> tuple[Tensor | None, Tensors]:
        (c, s), gamma, (gamma_bar, beta_bar) = at.tape, at.w[0], at.w_bar
        y_bar, y_bar_dot, rows = at.y_bar.flatten(1, -2), y_bar_dot.flatten(1, -2), c.shape[1]
        beta_bar_dot, gamma_bar_dot = sums(y_bar_dot, c)
        gamma_bar_dot = gamma_bar_dot * s
        a, a_dot = gamma * s, w_dot[0] * s
        if tape_dot is not None:
            x_dot, mean, s_dot = tape_dot
            gamma_bar_dot += s * (total(y_bar, x_dot) - mean * beta_bar) + s_dot * gamma_bar / s
            a_dot = a_dot + gamma * s_dot
        if not need_x:
            return None, (gamma_bar_dot, beta_bar_dot)
        # x̄ = a ȳ − a β̄/M − k c with k = a s γ̄/M, and of that every factor's derivative:
        k, k_dot = a * s * gamma_bar / rows, (a_dot * gamma_bar + a * gamma_bar_dot) * s / rows
        constant, terms = (a_dot * beta_bar + a * beta_bar_dot) / -rows, [(y_bar_dot, a), (y_bar, a_dot)]
        if tape_dot is not None:
            k_dot += a * s_dot * gamma_bar / rows
            constant += k * mean
            terms.append((x_dot, -k))
        x_bar_dot = combined(constant, *terms, (c, -k_dot))
        return self._image(x_bar_dot), (gamma_bar_dot, beta_bar_dot)

    def _image(self, rows: Tensor) -> Tensor:
        return rows.unflatten(1, (-1, *self.out_shape[:-1])) if len(self.out_shape) > 1 else rows


def total(u: Tensor, v: Tensor | None = None) -> Tensor:
    """Σ u, or Σ u v, over the rows: (B, 1, C)."""
    return (u if v is None else u * v).sum(1, keepdim=True)


def sums(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Σ u and Σ u v over the rows, each (B, 1, C)."""
    if len(u) > 1 or u.device.type != "cpu" or u.nbytes < ONE_PASS_BYTES:
        return total(u), total(u, v)
    rows = zip(u[0, :, :, None, None].split(ROWS), v[0, :, :, None, None].split(ROWS), strict=True)
    backward, zero, one = torch.ops.aten.native_batch_norm_backward, u.new_zeros(u.shape[2]), u.new_ones(u.shape[2])
    parts = [backward(*both, None, None, None, zero, one, True, 0.0, (False, True, True))[1:] for both in rows]
    products, values = (torch.stack(each).sum(0).view(1, 1, -1) for each in zip(*parts, strict=True))
    return values, products


def combined(constant: Tensor, *terms: tuple[Tensor, Tensor]) -> Tensor:
    """constant + Σ u f over terms (u, f): tensors u (B, M, C) times one number a channel, f (B, 1, C)."""
    (u, f), *rest = terms
    result = torch.addcmul(constant, u, f)
    for u, f in rest:
        result.addcmul_(u, f)
    return result
