"""The fast objective: a model that is a chain of known layers, run for a batch of tasks by the layers' own formulas."""

from __future__ import annotations

import math
from copy import copy
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hpc_dmaml.engine.layers import LAYERS, ConvolutionAndNorm, Layer, Normalize, NormAndPool, Record, Shape
from hpc_dmaml.engine.objective import Gradient, Parameters
from hpc_dmaml.losses import Loss
from hpc_dmaml.parameters import Layout


class LayerwiseRecord(NamedTuple):
    layers: list[Record]
    loss: Any


class LayerwiseObjective:
    """Forward, backward and Hessian-vector product, layer by layer, for all tasks at once."""

    derivatives = "layerwise"

    def __init__(self, layers: list[Layer], packed: list[list[Tensor]], layout: Layout, loss: Loss) -> None:
        """`packed`: for each layer its packed parameters, holding their numbers in the flat vector."""
        self.layers, self.layout, self.loss = layers, layout, loss
        self.counts = [len(parameters) for parameters in packed]
        self.shapes = [tuple(p.shape) for p in chain(*packed)]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.order = torch.cat([p.flatten() for p in chain(*packed)])
        self.first = next(i for i, count in enumerate(self.counts) if count)  # no derivative is needed before it

    @classmethod
    def of(
        cls, module: nn.Module, layout: Layout, sample_shape: tuple[int, ...], loss: Loss
    ) -> LayerwiseObjective | None:
        """The objective for `module`, or None where it holds anything else than a plain chain of known layers."""
        modules = flattened(module)
        if modules is None or not all(p.requires_grad for p in module.parameters()):
            return None
        numbers = layout.views(torch.arange(layout.size))
        names = {id(p): name for name, p in module.named_parameters()}
        shape = (*sample_shape[1:], sample_shape[0]) if len(sample_shape) == 3 else sample_shape
        layers: list[Layer] = []
        packed: list[list[Tensor]] = []
        for part in joined(pooled_first(modules), shape):
            try:
                layer = LAYERS[type(part)].of(part, shape)
            except RuntimeError:
                layer = None
            if layer is None or min(layer.out_shape) < 1:  # or nothing is left of the image, which PyTorch says better
                return None
            shape = layer.out_shape
            layers.append(layer)
            packed.append([p.contiguous() for p in layer.pack(*(numbers[names[id(p)]] for p in part.parameters()))])
        objective = cls(layers, packed, layout, loss) if any(packed) and len(shape) == 1 else None
        shared = objective is None or len(objective.order) != layout.size  # a parameter used twice
        return None if shared else objective

    def with_loss(self, loss: Loss) -> LayerwiseObjective:
        other = copy(self)
        other.loss = loss
        return other

    def enter(self, theta: Tensor, tasks: int) -> Parameters:
        self.order = self.order.to(theta.device)
        parts = theta.index_select(0, self.order).split(self.sizes)
        one = tuple(p.view(1, *s) for p, s in zip(parts, self.shapes, strict=True))
        return one if tasks == 1 else tuple(p.expand(tasks, *s) for p, s in zip(one, self.shapes, strict=True))

    def flat(self, parameters: Parameters) -> Tensor:
        packed = torch.cat([p.reshape(len(p), -1) for p in parameters], 1)
        return torch.empty_like(packed).index_copy_(1, self.order.to(packed.device), packed)

    def outputs(self, parameters: Parameters, x: Tensor) -> Tensor:
        z = channels_last(x)
        for layer, w in zip(self.layers, self._by_layer(parameters), strict=True):
            z, _ = layer.forward(z, *w)
        return z

    def value(self, parameters: Parameters, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z = self.outputs(parameters, x)
        return self.loss.value(z, y), z

    def gradient(self, parameters: Parameters, x: Tensor, y: Tensor) -> Gradient:
        by_layer, tapes = self._by_layer(parameters), []
        z = channels_last(x)
        for layer, w in zip(self.layers, by_layer, strict=True):
            z, tape = layer.forward(z, *w)
            tapes.append(tape)
        losses, y_bar, loss_tape = self.loss.gradient(z, y)
        records: list[Record] = []
        for i in reversed(range(self.first, len(self.layers))):
            x_bar, w_bar = self.layers[i].backward(tapes[i], by_layer[i], y_bar, need_x=i > self.first)
            records.append(Record(tapes[i], by_layer[i], y_bar, w_bar))
            if x_bar is not None:
                y_bar = x_bar
        records.reverse()
        return Gradient(losses, z, tuple(chain(*(r.w_bar for r in records))), LayerwiseRecord(records, loss_tape))

    def hessian_vector(self, record: LayerwiseRecord, v: Parameters) -> Parameters:
        layers, directions = self.layers[self.first :], self._by_layer(v)[self.first :]
        z_dot: Tensor | None = None
        tapes_dot = []
        for layer, at, w_dot in zip(layers, record.layers, directions, strict=True):
            z_dot, tape_dot = layer.tangent(at, z_dot, w_dot)
            tapes_dot.append(tape_dot)
        assert z_dot is not None  # the first of these layers has parameters
        y_bar_dot = self.loss.tangent(record.loss, z_dot)
        w_bar_dots = []
        for i in reversed(range(len(layers))):
            x_bar_dot, w_bar_dot = layers[i].tangent_backward(
                record.layers[i], tapes_dot[i], directions[i], y_bar_dot, need_x=i > 0
            )
            w_bar_dots.append(w_bar_dot)
            if x_bar_dot is not None:
                y_bar_dot = x_bar_dot
        return tuple(chain(*reversed(w_bar_dots)))

    def _by_layer(self, parameters: Parameters) -> list[Parameters]:
        remaining = iter(parameters)
        return [tuple(next(remaining) for _ in range(count)) for count in self.counts]


def channels_last(x: Tensor) -> Tensor:
    """Images (B, n, C, H, W) to (B, n, H, W, C); anything else as it is."""
    return x.movedim(2, -1).contiguous() if x.dim() == 5 else x


def flattened(module: nn.Module) -> list[nn.Module] | None:
    """The modules of a chain in order, nested `nn.Sequential`s opened; None if any is of another type or altered."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    if any(hooks) or "forward" in vars(module) or nn.modules.module._has_any_global_hook():
        return None
    if type(module) in LAYERS:
        return [module]
    if type(module) is not nn.Sequential:
        return None
    parts = [flattened(part) for part in module]
    return None if any(part is None for part in parts) else list(chain(*parts))  # type: ignore[arg-type]


def pooled_first(modules: list[nn.Module]) -> list[nn.Module]:
    """The same function and gradient with every ReLU moved behind a max-pool that follows it: fewer pixels to do."""
    modules = list(modules)
    for i in range(1, len(modules)):
        if isinstance(modules[i - 1], nn.ReLU) and isinstance(modules[i], nn.MaxPool2d):
            modules[i - 1 : i + 1] = modules[i], modules[i - 1]
    return modules


def joined(modules: list[nn.Module], sample_shape: Shape) -> list[nn.Module]:
    """The same chain with pairs as one where there is a layer for both, which is faster."""
    modules = list(modules)
    front = slice(1, 3) if kinds(modules[:1]) == [Normalize] else slice(0, 2)
    if kinds(modules[front]) == [nn.Conv2d, nn.BatchNorm2d]:
        both = ConvolutionAndNorm(*modules[front])
        if LAYERS[ConvolutionAndNorm].of(both, sample_shape) is not None:
            modules[front] = [both]
    for i in range(len(modules) - 1):
        if kinds(modules[i : i + 2]) == [nn.BatchNorm2d, nn.MaxPool2d]:
            modules[i : i + 2] = [NormAndPool(*modules[i : i + 2])]
    return modules


def kinds(modules: list[nn.Module]) -> list[type[nn.Module]]:
    return [type(module) for module in modules]
