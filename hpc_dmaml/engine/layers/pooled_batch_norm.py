"""Batch norm and the max-pooling after it: the maximum is found on c, so that only the selected pixels are scaled.

Where γ is negative, y decreases with c, so that the smallest c is selected.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from hpc_dmaml.engine.layers.batch_norm import BatchNorm, Term, combined, images
from hpc_dmaml.engine.layers.layer import Shape
from hpc_dmaml.engine.layers.max_pool import MaxPool


class NormAndPool(nn.Sequential):
    """`nn.BatchNorm2d` followed by `nn.MaxPool2d`."""


class PooledBatchNorm(BatchNorm):
    """The layer for `NormAndPool`; the tape's `winners` are the indices of the pool's maxima."""

    def __init__(self, shape: Shape, eps: float, pool: MaxPool) -> None:
        super().__init__(shape, eps)
        self.pool, self.out_shape = pool, pool.out_shape

    @classmethod
    def of(cls, module: NormAndPool, in_shape: Shape) -> PooledBatchNorm | None:  # type: ignore[override]
        first, second = module
        assert isinstance(first, nn.BatchNorm2d)
        assert isinstance(second, nn.MaxPool2d)
        norm, pool = BatchNorm.of(first, in_shape), MaxPool.of(second, in_shape)
        return cls(in_shape, norm.eps, pool) if norm and pool else None

    def choose(self, c: Tensor, gamma: Tensor) -> tuple[Tensor, Any]:
        # Not when traced for compilation, which must not depend on the values.
        if c.device.type == "cpu" and not is_in_torch_dispatch_mode() and (gamma > 0).all():
            p, winners = self.pool.forward(images(c, self.in_shape))
            return p.flatten(1, -2), winners
        _, winners = self.pool.forward(images(c * gamma.sign(), self.in_shape))
        return self.chosen(winners, c), winners

    def chosen(self, winners: Any, x: Tensor) -> Tensor:
        return self.pool.apply(winners, images(x, self.in_shape)).flatten(1, -2)

    def spread(self, winners: Any, *terms: Term) -> tuple[Term, ...]:
        (u, f), *rest = terms
        y_bar = combined(u.new_zeros(()), (u, f), *rest)
        x_bar = self.pool.transpose(winners, images(y_bar, self.out_shape)).flatten(1, -2)
        return ((x_bar, x_bar.new_ones(())),)
