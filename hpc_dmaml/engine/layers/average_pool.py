"""Average pooling, of windows or of whole images: a linear map."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpc_dmaml.engine.layers.images import nchw, nhwc, pair
from hpc_dmaml.engine.layers.layer import LinearMap, Shape


class AveragePool(LinearMap):
    """`nn.AvgPool2d`, and `nn.AdaptiveAvgPool2d` if its windows have equal size and do not overlap. No tape."""

    def __init__(self, window: tuple[Any, ...], in_shape: Shape) -> None:
        """`window`: the arguments of PyTorch's `avg_pool2d` after the images."""
        self.window, self.in_shape = window, in_shape
        self.out_shape = tuple(self.apply(None, torch.zeros(1, 1, *in_shape)).shape[2:])

    @classmethod
    def of(cls, module: nn.AvgPool2d | nn.AdaptiveAvgPool2d, in_shape: Shape) -> AveragePool | None:
        if len(in_shape) != 3:
            return None
        if isinstance(module, nn.AvgPool2d):
            sizes = (pair(each) for each in (module.kernel_size, module.stride, module.padding))
            return cls((*sizes, module.ceil_mode, module.count_include_pad, module.divisor_override), in_shape)
        wanted = module.output_size if isinstance(module.output_size, tuple | list) else (module.output_size,) * 2
        sides = [(side, side if each is None else each) for side, each in zip(in_shape[:2], wanted, strict=True)]
        if any(each < 1 or side % each for side, each in sides):
            return None
        size = tuple(side // each for side, each in sides)
        return cls((size, size, (0, 0), False, True, None), in_shape)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.apply(None, x), None

    def apply(self, tape: None, x: Tensor) -> Tensor:
        return nhwc(F.avg_pool2d(nchw(x.flatten(0, 1)), *self.window)).unflatten(0, x.shape[:2])

    def transpose(self, tape: None, y_bar: Tensor) -> Tensor:
        y_bar, tasks = y_bar.flatten(0, 1), y_bar.shape[:2]
        shape_of = nchw(y_bar.new_empty(len(y_bar), *self.in_shape))
        x_bar = torch.ops.aten.avg_pool2d_backward(nchw(y_bar), shape_of, *self.window)
        return nhwc(x_bar).unflatten(0, tasks)
