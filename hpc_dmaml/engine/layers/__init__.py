"""Layers with derivatives by formula. To add one: one file here, one row in `LAYERS`, and one row in its test."""

from __future__ import annotations

from typing import Any

from torch import nn

from hpc_dmaml.engine.layers.appended import Append, Appended
from hpc_dmaml.engine.layers.average_pool import AveragePool
from hpc_dmaml.engine.layers.batch_norm import BatchNorm
from hpc_dmaml.engine.layers.chain import Chain
from hpc_dmaml.engine.layers.convolution import Convolution
from hpc_dmaml.engine.layers.flatten import Flatten
from hpc_dmaml.engine.layers.layer import Layer, Record, Shape, Tensors
from hpc_dmaml.engine.layers.leaky_relu import LeakyReLU
from hpc_dmaml.engine.layers.linear import Linear
from hpc_dmaml.engine.layers.max_pool import MaxPool
from hpc_dmaml.engine.layers.normalization import Normalization, Normalize
from hpc_dmaml.engine.layers.normalized_convolution import ConvolutionAndNorm, NormalizedConvolution
from hpc_dmaml.engine.layers.pooled_batch_norm import NormAndPool, PooledBatchNorm
from hpc_dmaml.engine.layers.relu import ReLU
from hpc_dmaml.engine.layers.residual import Residual, ResidualSum
from hpc_dmaml.engine.layers.tanh import Tanh

LAYERS: dict[type[nn.Module], Any] = {
    nn.Linear: Linear,
    nn.Conv2d: Convolution,
    nn.BatchNorm1d: BatchNorm,
    nn.BatchNorm2d: BatchNorm,
    nn.ReLU: ReLU,
    nn.LeakyReLU: LeakyReLU,
    nn.Tanh: Tanh,
    Append: Appended,
    Residual: ResidualSum,
    nn.MaxPool2d: MaxPool,
    nn.AvgPool2d: AveragePool,
    nn.AdaptiveAvgPool2d: AveragePool,
    nn.Flatten: Flatten,
    Normalize: Normalization,
    NormAndPool: PooledBatchNorm,
    ConvolutionAndNorm: NormalizedConvolution,
}
"""The layer for each type of module; the type must be exact, not a subclass."""

__all__ = [
    "LAYERS",
    "Append",
    "Chain",
    "ConvolutionAndNorm",
    "Layer",
    "NormAndPool",
    "Normalize",
    "Record",
    "Residual",
    "Shape",
    "Tensors",
]
