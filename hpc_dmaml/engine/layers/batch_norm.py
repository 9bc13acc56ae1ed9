"""Batch norm over the samples (and pixels) of the current batch, for each task separately.

Over the M rows of a channel, with c = x − mean x, s = 1/√(mean c² + ε), n = s c and the scale a = γ s:

    y  = a c + β                                   γ̄ = s Σ ȳ c,   β̄ = Σ ȳ
    x̄  = a (ȳ − β̄/M − n γ̄/M)
    ẏ  = a (ẋ − mean ẋ) + ȧ c + β̇                  ṡ = −s³ mean(c ẋ),   ȧ = γ̇ s + γ ṡ
    γ̄̇  = s Σ ȳ̇ c + Σ ȳ ṅ,   β̄̇ = Σ ȳ̇                ṅ = s (ẋ − mean ẋ) + ṡ c

and x̄̇ is the derivative of x̄. The sums over rows are computed first; the rest is a sum of a few tensors, each times
one number per channel. `PooledBatchNorm` computes y from some pixels of c only, which are called p here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from hpc_dmaml.engine.layers.layer import Record, Shape, Tensors

ONE_PASS_BYTES = 1 << 23
"""Bytes of one task's activations from which PyTorch's batch norm backward, which sums in one pass, is faster."""
ROWS = 1 << 13
"""Rows per call of it; limits the rounding error, because it adds them sequentially in single precision."""


class Tape(NamedTuple):
    c: Tensor
    """(B, M, C)"""
    s: Tensor
    """(B, 1, C)"""
    p: Tensor
    """The pixels of c that y is computed from (B, M', C): all of them, except in `PooledBatchNorm`."""
    winners: Any
    """The indices of these pixels, or None for all."""


class TapeDot(NamedTuple):
    x: Tensor
    """ẋ (B, M, C)"""
    chosen: Tensor
    """The pixels of ẋ that correspond to p, (B, M', C)."""
    mean: Tensor
    """mean ẋ (B, 1, C)"""
    s: Tensor
    """ṡ (B, 1, C)"""


Term = tuple[Tensor, Tensor]
"""A tensor (B, M, C) and its factor, one number per channel, (B, 1, C)."""


class BatchNorm:
    """`nn.BatchNorm1d` and `nn.BatchNorm2d` with batch statistics; packed γ and β are (1, C)."""

    def __init__(self, shape: Shape, eps: float) -> None:
        self.in_shape = self.out_shape = shape
        self.eps = eps

    @classmethod
    def of(cls, module: nn.BatchNorm1d | nn.BatchNorm2d, in_shape: Shape) -> BatchNorm | None:
        dimensions = 3 if isinstance(module, nn.BatchNorm2d) else 1
        known = module.affine and len(in_shape) == dimensions and in_shape[-1] == module.num_features
        by_batch = module.training or module.running_mean is None
        return cls(in_shape, module.eps) if known and by_batch else None

    def pack(self, *parameters: Tensor) -> Tensors:
        return tuple(p[None] for p in parameters)

    def forward(self, x: Tensor, *w: Tensor) -> tuple[Tensor, Tape]:
        gamma, beta = w
        x = x.flatten(1, -2)
        rows = x.shape[1]
        check_rows(rows)
        c = x - total(x) / rows  # c = x − mean x
        s = (sums(c, c)[1] / rows + self.eps).rsqrt_()  # s = 1/√(mean c² + ε)
        p, winners = self.choose(c, gamma)
        return images(combined(beta, (p, gamma * s)), self.out_shape), Tape(c, s, p, winners)  # y = a c + β

    def backward(self, tape: Tape, w: Tensors, y_bar: Tensor, need_x: bool) -> tuple[Tensor | None, Tensors]:
        c, s, p, winners = tape
        y_bar = y_bar.flatten(1, -2)
        beta_bar, gamma_bar = sums(y_bar, p)  # β̄ = Σ ȳ
        gamma_bar = gamma_bar * s  # γ̄ = s Σ ȳ c
        if not need_x:
            return None, (gamma_bar, beta_bar)
        a, rows = w[0] * s, c.shape[1]
        spread = self.spread(winners, (y_bar, a))
        x_bar = combined(a * beta_bar / -rows, *spread, (c, a * s * gamma_bar / -rows))  # x̄ = a (ȳ − β̄/M − n γ̄/M)
        return images(x_bar, self.in_shape), (gamma_bar, beta_bar)

    def tangent(self, at: Record, x_dot: Tensor | None, w_dot: Tensors) -> tuple[Tensor, TapeDot | None]:
        (c, s, p, winners), gamma, (gamma_dot, beta_dot) = at.tape, at.w[0], w_dot
        if x_dot is None:  # ẏ = ȧ c + β̇ with ȧ = γ̇ s
            return images(combined(beta_dot, (p, gamma_dot * s)), self.out_shape), None
        x_dot, rows = x_dot.flatten(1, -2), c.shape[1]
        mean, s_dot = (each / rows for each in sums(x_dot, c))
        s_dot *= -(s**3)  # ṡ = −s³ mean(c ẋ)
        a, a_dot, chosen = gamma * s, gamma_dot * s + gamma * s_dot, self.chosen(winners, x_dot)  # ȧ = γ̇ s + γ ṡ
        y_dot = combined(beta_dot - a * mean, (chosen, a), (p, a_dot))  # ẏ = a (ẋ − mean ẋ) + ȧ c + β̇
        return images(y_dot, self.out_shape), TapeDot(x_dot, chosen, mean, s_dot)

    def tangent_backward(
        self, at: Record, tape_dot: TapeDot | None, w_dot: Tensors, y_bar_dot: Tensor, need_x: bool
    ) -> tuple[Tensor | None, Tensors]:
        (c, s, p, winners), gamma, (gamma_bar, beta_bar) = at.tape, at.w[0], at.w_bar
        y_bar, y_bar_dot, rows = at.y_bar.flatten(1, -2), y_bar_dot.flatten(1, -2), c.shape[1]
        beta_bar_dot, gamma_bar_dot = sums(y_bar_dot, p)  # β̄̇ = Σ ȳ̇
        gamma_bar_dot = gamma_bar_dot * s  # γ̄̇ = s Σ ȳ̇ c + Σ ȳ ṅ, of which this is the first term
        a, a_dot = gamma * s, w_dot[0] * s
        if tape_dot is not None:
            x_dot, chosen, mean, s_dot = tape_dot
            gamma_bar_dot += s * (total(y_bar, chosen) - mean * beta_bar) + s_dot * gamma_bar / s  # Σ ȳ ṅ
            a_dot = a_dot + gamma * s_dot  # ȧ = γ̇ s + γ ṡ
        if not need_x:
            return None, (gamma_bar_dot, beta_bar_dot)
        # x̄̇ is, by the product rule, the derivative of x̄ = a ȳ − a β̄/M − k c with k = a s γ̄/M:
        k, k_dot = a * s * gamma_bar / rows, (a_dot * gamma_bar + a * gamma_bar_dot) * s / rows
        constant, terms = (a_dot * beta_bar + a * beta_bar_dot) / -rows, []
        if tape_dot is not None:
            k_dot += a * s_dot * gamma_bar / rows
            constant += k * mean
            terms.append((x_dot, -k))
        spread = self.spread(winners, (y_bar_dot, a), (y_bar, a_dot))
        x_bar_dot = combined(constant, *spread, *terms, (c, -k_dot))
        return images(x_bar_dot, self.in_shape), (gamma_bar_dot, beta_bar_dot)

    def choose(self, c: Tensor, gamma: Tensor) -> tuple[Tensor, Any]:
        """p, and the indices of its pixels."""
        return c, None

    def chosen(self, winners: Any, x: Tensor) -> Tensor:
        """The pixels of another tensor that correspond to p."""
        return x

    def spread(self, winners: Any, *terms: Term) -> tuple[Term, ...]:
        """Convert terms of the size of y to terms of the size of x."""
        return terms


def images(rows: Tensor, shape: Shape) -> Tensor:
    """View (B, n·H·W, C) as (B, n, H, W, C) for a sample's shape (H, W, C); vectors stay as they are."""
    return rows.unflatten(1, (-1, *shape[:-1])) if len(shape) > 1 else rows


def check_rows(rows: int) -> None:
    """Raise ValueError for a single row, as PyTorch does: the output would not depend on the data."""
    if rows < 2:
        raise ValueError("batch norm needs more than one sample, or pixel, of a task")


def total(u: Tensor, v: Tensor | None = None) -> Tensor:
    """Σ u, or Σ u v, over the rows: (B, 1, C). In double precision if compiled, as compiled code adds in sequence."""
    precision = torch.float64 if is_in_torch_dispatch_mode() else u.dtype
    return (u if v is None else u * v).sum(1, keepdim=True, dtype=precision).to(u.dtype)


def sums(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Σ u and Σ u v over the rows, each (B, 1, C)."""
    if len(u) > 1 or u.device.type != "cpu" or u.nbytes < ONE_PASS_BYTES:
        return total(u), total(u, v)
    rows = zip(u[0, :, :, None, None].split(ROWS), v[0, :, :, None, None].split(ROWS), strict=True)
    backward, zero, one = torch.ops.aten.native_batch_norm_backward, u.new_zeros(u.shape[2]), u.new_ones(u.shape[2])
    parts = [backward(*both, None, None, None, zero, one, True, 0.0, (False, True, True))[1:] for both in rows]
    products, values = (torch.stack(each).sum(0).view(1, 1, -1) for each in zip(*parts, strict=True))
    return values, products


def combined(constant: Tensor, *terms: Term) -> Tensor:
    """constant + Σ u f over terms (u, f): tensors u (B, M, C) times one number per channel, f (B, 1, C)."""
    (u, f), *rest = terms
    result = torch.addcmul(constant, u, f)
    for u, f in rest:
        result.addcmul_(u, f)
    return result
