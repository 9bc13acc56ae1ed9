"""Convolution as `Linear` on unfolded images: y = unfold(x) Wᵀ + b. Unfold and its transpose, fold, are linear maps.

If the unfolded images would not fit in a CPU core's cache, PyTorch's convolution computes the same three products.
A 1 × 1 convolution with stride 1 and no padding is `Linear` on the pixels, without unfolding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpc_dmaml.engine.layers.images import nchw, nhwc, pair
from hpc_dmaml.engine.layers.layer import Shape, Tensors
from hpc_dmaml.engine.layers.linear import Linear, Pair, side_by_side

COLUMNS_BYTES = 1 << 20
"""Size of one task's unfolded images in bytes above which PyTorch's convolution is faster on a CPU."""


class Convolution(Linear):
    """`nn.Conv2d` with zero padding; packed W is (out, kh·kw·in), packed b is (1, out).

    The tape is x, as columns (B, n·H'·W', kh·kw·C) or, if these are too large, as images (B, n, H, W, C).
    """

    def __init__(self, module: nn.Conv2d, in_shape: Shape) -> None:
        self.in_shape = in_shape
        assert not isinstance(module.padding, str)
        self.window = (pair(module.kernel_size), pair(module.padding), pair(module.stride))
        self.of_pixels = self.window == ((1, 1), (0, 0), (1, 1))
        sides = zip(in_shape[:2], *self.window, strict=True)
        self.out_shape = (*((size + 2 * p - k) // s + 1 for size, k, p, s in sides), module.out_channels)

    @classmethod
    def of(cls, module: nn.Module, in_shape: Shape) -> Convolution | None:
        known = (
            isinstance(module, nn.Conv2d)
            and module.groups == 1
            and pair(module.dilation) == (1, 1)
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and len(in_shape) == 3
            and in_shape[2] == module.in_channels
        )
        return cls(module, in_shape) if known else None  # type: ignore[arg-type]

    def pack(self, *parameters: Tensor) -> Tensors:
        weight, *bias = parameters
        return (weight.permute(0, 2, 3, 1).flatten(1), *(b[None] for b in bias))

    def lift(self, x: Tensor) -> Tensor:
        return x if self._large(x) else self.unfold(x)

    def products(self, bias: Tensors, *pairs: Pair) -> Tensor:
        if pairs[0][0].dim() == 3:  # b + Σ unfold(x) Wᵀ
            return super().products(bias, *pairs).unflatten(1, (-1, *self.out_shape[:2]))
        _, padding, stride = self.window
        y, *rest = (
            _each_kernel(lambda x, w: nhwc(F.conv2d(nchw(x), self._kernel(w), None, stride, padding)), *pair)
            for pair in pairs
        )
        for more in (*rest, *(b[:, :, None, None] for b in bias)):
            y.add_(more)
        return y

    def adjoint_x(self, *pairs: Pair) -> Tensor:
        if not self._large(pairs[0][0]):  # x̄ = fold(Σ ȳ W)
            return self._fold(super().adjoint_x(*((y_bar.flatten(1, 3), w) for y_bar, w in pairs)))
        y_bar, w = side_by_side(*pairs)
        return _each_kernel(lambda y_bar, w: nhwc(self._backward(None, w, y_bar)), y_bar, w)

    def adjoint_w(self, *pairs: Pair) -> Tensor:
        if pairs[0][0].dim() == 3:  # W̄ = Σ ȳᵀ unfold(x)
            return super().adjoint_w(*((columns, y_bar.flatten(1, 3)) for columns, y_bar in pairs))
        w_bar, *rest = (
            _each_task(lambda x, y_bar: nhwc(self._backward(x, None, y_bar)).flatten(1), *pair) for pair in pairs
        )
        for more in rest:
            w_bar.add_(more)
        return w_bar

    def _large(self, images: Tensor) -> bool:
        """Whether PyTorch's convolution is faster, given the layer's input or output images (B, n, ·, ·, ·)."""
        height, width = self.window[0]
        if self.of_pixels:
            return False
        numbers = images.shape[1] * self.out_shape[0] * self.out_shape[1] * height * width * self.in_shape[2]
        return images.device.type == "cpu" and 4 * numbers > COLUMNS_BYTES

    def _backward(self, x: Tensor | None, w: Tensor | None, y_bar: Tensor) -> Tensor:
        """The gradient of one task's convolution with respect to the argument that is None, by PyTorch."""
        (kernel_size, padding, stride), (height, width, channels) = self.window, self.in_shape
        x_is_wanted = x is None
        shapes = (len(y_bar), height, width, channels), (y_bar.shape[-1], math.prod(kernel_size) * channels)
        x, w = (y_bar.new_empty(shape) if each is None else each for each, shape in zip((x, w), shapes, strict=True))
        wanted = (x_is_wanted, not x_is_wanted, False)
        gradients = torch.ops.aten.convolution_backward(
            nchw(y_bar), nchw(x), self._kernel(w), None, stride, padding, (1, 1), False, (0, 0), 1, wanted
        )
        return gradients[0 if x_is_wanted else 1]

    def _kernel(self, w: Tensor) -> Tensor:
        """View a packed kernel (out, kh·kw·in) as (out, in, kh, kw)."""
        return nchw(w.view(-1, *self.window[0], self.in_shape[2]))

    def unfold(self, x: Tensor) -> Tensor:
        """Convert images (B, n, H, W, C) to columns (B, n·H'·W', kh·kw·C)."""
        if self.of_pixels:
            return x.flatten(1, 3)
        images, channels = x.shape[0] * x.shape[1], x.shape[-1]
        (index, offsets), _ = _bags(images, self.in_shape[:2], *self.window, x.device)
        pixels = x.reshape(-1).view(-1, channels)  # a sum over one channel is fast only where its stride is 1
        columns = F.embedding_bag(index, pixels, offsets, mode="sum")
        return columns.view(x.shape[0], -1, self.window[0][0] * self.window[0][1] * channels)

    def _fold(self, columns: Tensor) -> Tensor:
        """The transpose of `unfold`: convert columns to images, summed where windows overlap."""
        if self.of_pixels:
            return columns.unflatten(1, (-1, *self.in_shape[:2]))
        tasks, rows, _ = columns.shape
        n = rows // (self.out_shape[0] * self.out_shape[1])
        _, (index, offsets) = _bags(tasks * n, self.in_shape[:2], *self.window, columns.device)
        pixels = F.embedding_bag(index, columns.view(-1, self.in_shape[2]), offsets, mode="sum")
        return pixels.view(tasks, n, *self.in_shape)


Bags = tuple[Tensor, Tensor]
"""Index and offsets for `embedding_bag`: each output row is the sum of its bag's input rows, 0 for an empty bag."""


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


def _each_kernel(formula: Callable[[Tensor, Tensor], Tensor], images: Tensor, kernels: Tensor) -> Tensor:
    """Apply a formula that treats images independently: once for all tasks if they share their kernel."""
    if kernels.stride(0) == 0:
        return formula(images.flatten(0, 1), kernels[0]).unflatten(0, images.shape[:2])
    return _each_task(formula, images, kernels)


def _each_task(formula: Callable[[Tensor, Tensor], Tensor], *operands: Tensor) -> Tensor:
    """Apply a formula to one task after another; large tasks come in chunks of one anyway."""
    tasks = [formula(*each) for each in zip(*operands, strict=True)]
    return tasks[0][None] if len(tasks) == 1 else torch.stack(tasks)
