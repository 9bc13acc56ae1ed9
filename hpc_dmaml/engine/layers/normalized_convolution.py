"""A convolution of the data and the batch norm after it, as one linear map of the unfolded data.

Batch norm subtracts a mean and divides by a standard deviation; for z = X Wᵀ both are known without z: with C the
covariance of the columns of X, and Xc = X − mean X,

    y = Xc Vᵀ + β,   V = a W,   a = γ s,   s = 1/√(⟨W, Q⟩ + ε),   Q = W C,

where ⟨·, ·⟩ is the dot product of rows, one row per channel. X and C are data and need no derivative. So only the
product with [V, β] involves images; everything else is computed on matrices of the size of W. With V̄ from that
product, r = ⟨V̄, W⟩ and p = s² r:

    γ̄ = s r          W̄ = a (V̄ − p Q)
    ṡ = −s³ ⟨Q, Ẇ⟩   V̇ = ȧ W + a Ẇ   ȧ = γ̇ s + γ ṡ
    γ̄̇ = ṡ r + s ṙ    W̄̇ = ȧ (V̄ − p Q) + a (V̄̇ − ṗ Q − p Ẇ C)   ṙ = ⟨V̄̇, W⟩ + ⟨V̄, Ẇ⟩,   ṗ = s² ṙ + 2 s ṡ r

C is summed in double precision: cancellation loses twice as many digits in W C Wᵀ as in z − mean z.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hpc_dmaml.engine.layers.batch_norm import BatchNorm, check_rows, total
from hpc_dmaml.engine.layers.convolution import Convolution
from hpc_dmaml.engine.layers.layer import Record, Shape, Tensors

NARROW = 3
"""Least ratio of output channels N to columns D of the unfolded data for which one layer is faster than two."""


class ConvolutionAndNorm(nn.Sequential):
    """`nn.Conv2d` without bias and `nn.BatchNorm2d`, the first two modules of a chain."""


@dataclass
class Tape:
    x: Tensor
    """[Xc, 1] (B, M, D + 1)"""
    covariance: Tensor
    """C (B, D, D)"""
    q: Tensor
    """Q (B, N, D)"""
    s: Tensor
    """(B, N, 1)"""
    v_bar: Tensor | None = None
    """V̄ (B, N, D), set by `backward`."""


class NormalizedConvolution:
    """The layer for `ConvolutionAndNorm`; packed W is (N, D), packed γ and β are (N, 1)."""

    def __init__(self, convolution: Convolution, eps: float) -> None:
        self.convolution, self.eps = convolution, eps
        self.out_shape = convolution.out_shape

    @classmethod
    def of(cls, module: ConvolutionAndNorm, in_shape: Shape) -> NormalizedConvolution | None:
        """One layer for both modules, or None if it is unsupported or two layers are faster."""
        first, norm = module
        convolution = Convolution.of(first, in_shape)
        if convolution is None or first.bias is not None or BatchNorm.of(norm, convolution.out_shape) is None:
            return None
        return cls(convolution, norm.eps) if NARROW * first.weight[0].numel() <= first.out_channels else None

    def pack(self, *parameters: Tensor) -> Tensors:
        weight, gamma, beta = parameters
        return (*self.convolution.pack(weight), gamma[:, None], beta[:, None])

    def forward(self, x: Tensor, *w: Tensor) -> tuple[Tensor, Tape]:
        weight, gamma, beta = w
        x = self.convolution.unfold(x)
        check_rows(x.shape[1])
        x = x - total(x) / x.shape[1]  # Xc = X − mean X
        exact = x.double()
        covariance = exact.mT.bmm(exact) / x.shape[1]  # C = Xcᵀ Xc / M
        q = weight.double().bmm(covariance)  # Q = W C
        s = (dot(q, weight) + self.eps).rsqrt().to(x.dtype)  # s = 1/√(⟨W, Q⟩ + ε)
        x = torch.cat([x, x.new_ones(1).expand(*x.shape[:2], 1)], -1)
        tape = Tape(x, covariance.to(x.dtype), q.to(x.dtype), s)
        return self._product(tape, gamma * s * weight, beta), tape  # y = Xc Vᵀ + β with V = γ s W

    def backward(self, tape: Tape, w: Tensors, y_bar: Tensor, need_x: bool) -> tuple[None, Tensors]:
        weight, gamma, _ = w
        s = tape.s
        v_bar, beta_bar = self._adjoint(tape, y_bar)
        tape.v_bar = v_bar
        r = dot(v_bar, weight)  # r = ⟨V̄, W⟩
        return None, (gamma * s * (v_bar - s * s * r * tape.q), s * r, beta_bar)  # W̄ = a (V̄ − s² r Q), γ̄ = s r

    def tangent(self, at: Record, x_dot: Tensor | None, w_dot: Tensors) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        (weight, gamma, _), (weight_dot, gamma_dot, beta_dot) = at.w, w_dot
        s = at.tape.s
        s_dot = -(s**3) * dot(at.tape.q, weight_dot)  # ṡ = −s³ ⟨Q, Ẇ⟩
        a_dot = gamma_dot * s + gamma * s_dot  # ȧ = γ̇ s + γ ṡ, then V̇ = ȧ W + a Ẇ
        return self._product(at.tape, a_dot * weight + gamma * s * weight_dot, beta_dot), (s_dot, a_dot)

    def tangent_backward(
        self, at: Record, tape_dot: tuple[Tensor, Tensor], w_dot: Tensors, y_bar_dot: Tensor, need_x: bool
    ) -> tuple[None, Tensors]:
        (weight, gamma, _), (weight_dot, *_), (s_dot, a_dot) = at.w, w_dot, tape_dot
        s, q, v_bar = at.tape.s, at.tape.q, at.tape.v_bar
        v_bar_dot, beta_bar_dot = self._adjoint(at.tape, y_bar_dot)
        r, r_dot = dot(v_bar, weight), dot(v_bar_dot, weight) + dot(v_bar, weight_dot)
        p, p_dot = s * s * r, s * s * r_dot + 2 * s * s_dot * r
        change = v_bar_dot - p_dot * q - p * weight_dot.bmm(at.tape.covariance)
        weight_bar_dot = a_dot * (v_bar - p * q) + gamma * s * change  # W̄̇ = ȧ (V̄ − p Q) + a (V̄̇ − ṗ Q − p Ẇ C)
        return None, (weight_bar_dot, s_dot * r + s * r_dot, beta_bar_dot)  # γ̄̇ = ṡ r + s ṙ

    def _product(self, tape: Tape, v: Tensor, beta: Tensor) -> Tensor:
        """Xc Vᵀ + β as images."""
        return self.convolution.products((), (tape.x, torch.cat([v, beta], -1)))

    def _adjoint(self, tape: Tape, y_bar: Tensor) -> tuple[Tensor, Tensor]:
        """V̄ and β̄."""
        both = self.convolution.adjoint_w((tape.x, y_bar))
        return both[..., :-1], both[..., -1:]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ (B, N, 1)"""
    return (a * b).sum(-1, keepdim=True)
