"""Conversions between the engine's channels-last images and PyTorch's."""

from __future__ import annotations

from torch import Tensor

from hpc_dmaml.engine.layers.layer import Shape


def nchw(images: Tensor) -> Tensor:
    """View (n, H, W, C) as (n, C, H, W) in PyTorch's channels-last memory format."""
    return images.permute(0, 3, 1, 2)


def nhwc(images: Tensor) -> Tensor:
    """Convert (n, C, H, W) to contiguous (n, H, W, C), without a copy if it is in channels-last memory format."""
    return images.permute(0, 2, 3, 1).contiguous()


def pair(side: int | tuple[int, ...]) -> Shape:
    """(height, width) from an option of a PyTorch module."""
    return (side, side) if isinstance(side, int) else side
