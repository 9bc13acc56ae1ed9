"""Max-pooling: given the index of each window's maximum, the layer is a linear map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpc_dmaml.engine.layers.images import nchw, nhwc
from hpc_dmaml.engine.layers.layer import LinearMap, Shape


class MaxPool(LinearMap):
    """`nn.MaxPool2d`. The tape is the pixel index of each window's maximum, (B·n, H', W', C) int64."""

    def __init__(self, module: nn.MaxPool2d, in_shape: Shape) -> None:
        self.in_shape = in_shape
        self.window = module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode
        _, winners = self.forward(torch.zeros(1, 1, *in_shape))
        self.out_shape = tuple(winners.shape[1:])

    @classmethod
    def of(cls, module: nn.MaxPool2d, in_shape: Shape) -> MaxPool | None:
        return cls(module, in_shape) if len(in_shape) == 3 and not module.return_indices else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        size, stride, padding, dilation, ceil_mode = self.window
        y, winners = F.max_pool2d(nchw(x.flatten(0, 1)), size, stride, padding, dilation, ceil_mode, True)
        return nhwc(y).unflatten(0, x.shape[:2]), nhwc(winners)

    def apply(self, tape: Tensor, x: Tensor) -> Tensor:
        winners = x.flatten(0, 1).flatten(1, 2).gather(1, tape.flatten(1, 2))
        return winners.view(*x.shape[:2], *self.out_shape)

    def transpose(self, tape: Tensor, y_bar: Tensor) -> Tensor:
        size, stride, padding, dilation, ceil_mode = ([v, v] if type(v) is int else v for v in self.window)
        shape_of = nchw(y_bar.new_empty(len(tape), *self.in_shape))
        x_bar = torch.ops.aten.max_pool2d_with_indices_backward(
            nchw(y_bar.flatten(0, 1)), shape_of, size, stride, padding, dilation, ceil_mode, nchw(tape)
        )
        return nhwc(x_bar).unflatten(0, y_bar.shape[:2])
