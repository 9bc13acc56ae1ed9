"""Convolution as `Linear` on unfolded images: y = unfold(x) W + b. Unfold and its transpose, fold, are linear maps."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpc_dmaml.engine.layers.layer import Record, Shape, Tensors
from hpc_dmaml.engine.layers.linear import Linear


class Convolution(Linear):
    """`nn.Conv2d` with zero padding; packed W is (kh·kw·in, out), packed b is (1, out). The tape is unfold(x)."""

    def __init__(self, module: nn.Conv2d, in_shape: Shape) -> None:
        self.in_shape = in_shape
        assert not isinstance(module.padding, str)
        self.window = (_pair(module.kernel_size), _pair(module.padding), _pair(module.stride))
        sides = zip(in_shape[:2], *self.window, strict=True)
        self.out_shape = (*((size + 2 * p - k) // s + 1 for size, k, p, s in sides), module.out_channels)

    @classmethod
    def of(cls, module: nn.Module, in_shape: Shape) -> Convolution | None:
        known = (
            isinstance(module, nn.Conv2d)
            and module.groups == 1
            and _pair(module.dilation) == (1, 1)
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and len(in_shape) == 3
            and in_shape[2] == module.in_channels
        )
        return cls(module, in_shape) if known else None  # type: ignore[arg-type]

    def pack(self, *parameters: Tensor) -> Tensors:
        weight, *bias = parameters
        return (weight.permute(2, 3, 1, 0).flatten(0, 2), *(b[None] for b in bias))

    def forward(self, x: Tensor, *w: Tensor) -> tuple[Tensor, Tensor]:
        y, columns = super().forward(self._unfold(x), *w)
        return self._image(y), columns

    def backward(self, tape: Tensor, w: Tensors, y_bar: Tensor, need_x: bool) -> tuple[Tensor | None, Tensors]:
        columns_bar, w_bar = super().backward(tape, w, y_bar.flatten(1, 3), need_x)
        return self._fold(columns_bar), w_bar

    def tangent(self, at: Record, x_dot: Tensor | None, w_dot: Tensors) -> tuple[Tensor, Tensor | None]:
        y_dot, columns_dot = super().tangent(at, None if x_dot is None else self._unfold(x_dot), w_dot)
        return self._image(y_dot), columns_dot

    def tangent_backward(
        self, at: Record, tape_dot: Tensor | None, w_dot: Tensors, y_bar_dot: Tensor, need_x: bool
    ) -> tuple[Tensor | None, Tensors]:
        at = at._replace(y_bar=at.y_bar.flatten(1, 3))
        columns_bar_dot, w_bar_dot = super().tangent_backward(at, tape_dot, w_dot, y_bar_dot.flatten(1, 3), need_x)
        return self._fold(columns_bar_dot), w_bar_dot

    def _image(self, rows: Tensor) -> Tensor:
        return rows.unflatten(1, (-1, *self.out_shape[:2]))

    def _unfold(self, x: Tensor) -> Tensor:
        """Images (B, n, H, W, C) to columns (B, n·H'·W', kh·kw·C)."""
        images, channels = x.shape[0] * x.shape[1], x.shape[-1]
        (index, offsets), _ = _bags(images, self.in_shape[:2], *self.window, x.device)
        columns = F.embedding_bag(index, x.reshape(-1, channels), offsets, mode="sum")
        return columns.view(x.shape[0], -1, self.window[0][0] * self.window[0][1] * channels)

    def _fold(self, columns: Tensor | None) -> Tensor | None:
        """The transpose of `_unfold`: columns back to images, summed where windows overlap."""
        if columns is None:
            return None
        tasks, rows, _ = columns.shape
        n = rows // (self.out_shape[0] * self.out_shape[1])
        _, (index, offsets) = _bags(tasks * n, self.in_shape[:2], *self.window, columns.device)
        pixels = F.embedding_bag(index, columns.view(-1, self.in_shape[2]), offsets, mode="sum")
        return pixels.view(tasks, n, *self.in_shape)


Bags = tuple[Tensor, Tensor]
"""`embedding_bag`'s index and offsets: each output row is the sum of its bag's input rows, 0 for an empty bag."""


@lru_cache(maxsize=128)
def _bags(
    images: int, size: Shape, kernel: Shape, padding: Shape, stride: Shape, device: torch.device
) -> tuple[Bags, Bags]:
    """The bags of unfold and of its transpose, over the pixels of `images` images. A padded pixel is an empty bag."""
    numbers = torch.arange(1, images * size[0] * size[1] + 1, dtype=torch.float64).view(images, 1, *size)
    source = F.unfold(numbers, kernel, padding=padding, stride=stride).mT.flatten().long() - 1
    inside = source >= 0
    pixel, column = source[inside], torch.arange(len(source))[inside]
    unfold = pixel, inside.long()
    fold = column[pixel.argsort(stable=True)], pixel.bincount(minlength=numbers.numel())

    def bags(index: Tensor, counts: Tensor) -> Bags:
        return index.int().to(device), (counts.cumsum(0) - counts).int().to(device)

    return bags(*unfold), bags(*fold)


def _pair(value: int | tuple[int, ...]) -> Shape:
    return (value, value) if isinstance(value, int) else value
