"""One and the same memory, as the engine's channels-last images and as PyTorch's."""

from __future__ import annotations

from torch import Tensor

from hpc_dmaml.engine.layers.layer import Shape


def nchw(images: Tensor) -> Tensor:
    """(n, H, W, C) as (n, C, H, W), which PyTorch's kernels know as its channels-last format."""
    return images.permute(0, 3, 1, 2)


def nhwc(images: Tensor) -> Tensor:
    """(n, C, H, W) as contiguous (n, H, W, C)."""
    return images.permute(0, 2, 3, 1).contiguous()


def pair(side: int | tuple[int, ...]) -> Shape:
    """(height, width), as PyTorch's modules have them."""
    return (side, side) if isinstance(side, int) else side
