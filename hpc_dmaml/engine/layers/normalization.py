"""Standardize images by a constant mean and standard deviation for each channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hpc_dmaml.engine.layers.layer import LinearMap, Shape


class Normalize(nn.Module):
    """Mean and standard deviation of a data set, not of a batch, and never learned; initially 0 and 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean[:, None, None]) / self.std[:, None, None]


class Normalization(LinearMap):
    """The layer for `Normalize`; linear except for its forward, which subtracts the mean."""

    def __init__(self, module: Normalize, in_shape: Shape) -> None:
        self.mean, self.std = module.mean, module.std
        self.out_shape = in_shape

    @classmethod
    def of(cls, module: Normalize, in_shape: Shape) -> Normalization | None:
        return cls(module, in_shape) if len(in_shape) == 3 else None

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.apply(None, x - self.mean), None

    def apply(self, tape: None, x: Tensor) -> Tensor:
        return x / self.std

    def transpose(self, tape: None, y_bar: Tensor) -> Tensor:
        return y_bar / self.std
