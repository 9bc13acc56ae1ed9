"""One and the same memory, as the engine's channels-last images and as PyTorch's."""

from __future__ import annotations

from torch import Tensor


def nchw(images: Tensor) -> Tensor:
    """(n, H, W, C) as (n, C, H, W), which PyTorch's kernels know as its channels-last format."""
    return images.permute(0, 3, 1, 2)


def nhwc(images: Tensor) -> Tensor:
    """(n, C, H, W) as contiguous (n, H, W, C)."""
    return images.permute(0, 2, 3, 1).contiguous()
