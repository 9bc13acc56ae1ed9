"""Batch norm over the samples (and pixels) of the current batch, each task by itself.

Over the M rows of a channel, with mean m, s = 1/√(var + ε) and n = s (x − m):

    y  = γ n + β                                 γ̄ = Σ ȳ n,   β̄ = Σ ȳ
    ẏ  = γ ṅ + γ̇ n + β̇                           ṅ = s (ẋ − mean ẋ − n·mean(n ẋ)),   ṡ = −s² mean(n ẋ)
    x̄  = γ s (ȳ − (β̄ + n γ̄)/M)

and x̄̇ is that last line differentiated, its terms collected by what they multiply.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hpc_dmaml.engine.layers.layer import Record, Shape, Tensors


class Tape(NamedTuple):
    n: Tensor
    """(B, M, C)"""
    s: Tensor
    """(B, 1, C)"""


class BatchNorm:
    """`nn.BatchNorm1d` and `2d` on batch statistics; packed γ and β are (1, C). The tangent's tape is (ṅ, ṡ)."""

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
        n = x - mean(x)
        s = mean(n * n).add_(self.eps).rsqrt_()
        n.mul_(s)
        return self._image(torch.addcmul(beta, n, gamma)), Tape(n, s)

    def backward(self, tape: Tape, w: Tensors, y_bar: Tensor, need_x: bool) -> tuple[Tensor | None, Tensors]:
        n, s = tape
        y_bar = y_bar.flatten(1, -2)
        gamma_bar, beta_bar = total(y_bar * n), total(y_bar)
        if not need_x:
            return None, (gamma_bar, beta_bar)
        scale = w[0] * s
        per_row = scale / -n.shape[1]
        x_bar = torch.addcmul(per_row * beta_bar, y_bar, scale).addcmul_(n, per_row * gamma_bar)
        return self._image(x_bar), (gamma_bar, beta_bar)

    def tangent(self, at: Record, x_dot: Tensor | None, w_dot: Tensors) -> tuple[Tensor, Tape | None]:
        n, s = at.tape
        gamma_dot, beta_dot = w_dot
        y_dot = torch.addcmul(beta_dot, n, gamma_dot)
        if x_dot is None:
            return self._image(y_dot), None
        x_dot = x_dot.flatten(1, -2)
        along = mean(x_dot * n).mul_(-s)
        n_dot = torch.addcmul(mean(x_dot).mul_(-s), x_dot, s).addcmul_(n, along)
        return self._image(y_dot.addcmul_(n_dot, at.w[0])), Tape(n_dot, along * s)

    def tangent_backward(
        self, at: Record, tape_dot: Tape | None, w_dot: Tensors, y_bar_dot: Tensor, need_x: bool
    ) -> tuple[Tensor | None, Tensors]:
        (n, s), gamma, (gamma_bar, beta_bar) = at.tape, at.w[0], at.w_bar
        y_bar, y_bar_dot = at.y_bar.flatten(1, -2), y_bar_dot.flatten(1, -2)
        change = y_bar_dot * n
        if tape_dot is not None:
            change.addcmul_(y_bar, tape_dot.n)
        gamma_bar_dot, beta_bar_dot = total(change), total(y_bar_dot)
        if not need_x:
            return None, (gamma_bar_dot, beta_bar_dot)
        rows = -n.shape[1]
        scale, scale_dot = gamma * s, w_dot[0] * s
        if tape_dot is not None:
            scale_dot.addcmul_(gamma, tape_dot.s)
        x_bar_dot = torch.addcmul((scale_dot * beta_bar).addcmul_(scale, beta_bar_dot).div_(rows), y_bar_dot, scale)
        x_bar_dot.addcmul_(y_bar, scale_dot)
        x_bar_dot.addcmul_(n, (scale_dot * gamma_bar).addcmul_(scale, gamma_bar_dot).div_(rows))
        if tape_dot is not None:
            x_bar_dot.addcmul_(tape_dot.n, (scale * gamma_bar).div_(rows))
        return self._image(x_bar_dot), (gamma_bar_dot, beta_bar_dot)

    def _image(self, rows: Tensor) -> Tensor:
        return rows.unflatten(1, (-1, *self.out_shape[:-1])) if len(self.out_shape) > 1 else rows


def total(u: Tensor) -> Tensor:
    return u.sum(1, keepdim=True)


def mean(u: Tensor) -> Tensor:
    return total(u).div_(u.shape[1])
