"""The fast objective: for a model that is a chain of known layers, by the layers' own formulas, batched over tasks."""

from __future__ import annotations

import math
from copy import copy
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hpc_dmaml.engine.layers import (
    LAYERS,
    Chain,
    ConvolutionAndNorm,
    Layer,
    Normalize,
    NormAndPool,
    Record,
    Shape,
)
from hpc_dmaml.engine.objective import Gradient, Parameters
from hpc_dmaml.losses import Loss
from hpc_dmaml.parameters import Layout

FUSED: dict[tuple[type[nn.Module], ...], type[nn.Sequential]] = {
    (nn.BatchNorm2d, nn.MaxPool2d): NormAndPool,
}
"""Pairs of successive modules that one layer computes faster than two."""
FUSED_OF_DATA: dict[tuple[type[nn.Module], ...], type[nn.Sequential]] = {
    (nn.Conv2d, nn.BatchNorm2d): ConvolutionAndNorm,
}
"""The same at the start of the model only, where the input is data; used if the fused layer accepts it as faster."""


class LayerwiseRecord(NamedTuple):
    at: Record
    loss: Any


class LayerwiseObjective:
    """Forward, backward and Hessian-vector product, layer by layer, for all tasks at once."""

    derivatives = "layerwise"

    def __init__(self, layers: Chain, names: tuple[str, ...], packed: list[Tensor], layout: Layout, loss: Loss) -> None:
        """`names`: the parameters' names in the order of the layers; `packed`: for each packed parameter, its entries'
        positions in the flat vector θ."""
        self.chain, self.layers, self.names, self.layout, self.loss = layers, layers.layers, names, layout, loss
        self.shapes = [tuple(p.shape) for p in packed]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.order = torch.cat([p.flatten() for p in packed])
        self.places = self.order.argsort()

    @classmethod
    def of(
        cls, module: nn.Module, layout: Layout, sample_shape: tuple[int, ...], loss: Loss
    ) -> LayerwiseObjective | None:
        """The objective for `module`, or None if it is anything but a plain chain of known layers."""
        named = dict(module.named_parameters())
        shape = (*sample_shape[1:], sample_shape[0]) if len(sample_shape) == 3 else sample_shape
        layers = chain_of(module, shape, of_data=True)
        if layers is None or len(layers.out_shape) != 1 or not all(p.requires_grad for p in named.values()):
            return None
        if not named or len(named) != sum(layers.counts):  # a parameter used twice
            return None
        numbers = layout.views(torch.arange(layout.size))
        packed = [p.contiguous() for p in layers.pack(*(numbers[name] for name in named))]
        return cls(layers, tuple(named), packed, layout, loss)

    def with_loss(self, loss: Loss) -> LayerwiseObjective:
        other = copy(self)
        other.loss = loss
        return other

    def unflatten(self, theta: Tensor, tasks: int) -> Parameters:
        self.order = self.order.to(theta.device)
        parts = theta.index_select(0, self.order).split(self.sizes)
        one = tuple(p.view(1, *s) for p, s in zip(parts, self.shapes, strict=True))
        return one if tasks == 1 else tuple(p.expand(tasks, *s) for p, s in zip(one, self.shapes, strict=True))

    def flatten(self, parameters: Parameters) -> Tensor:
        packed = torch.cat([p.flatten(1) for p in parameters], 1)
        self.places = self.places.to(packed.device)
        return packed.index_select(1, self.places)

    enter, flat = unflatten, flatten  # their former names

    def outputs(self, parameters: Parameters, x: Tensor) -> Tensor:
        z = channels_last(x)
        for layer, w in zip(self.layers, self.chain.by_layer(parameters), strict=True):
            z, _ = layer.forward(z, *w)
        return z

    def value(self, parameters: Parameters, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z = self.outputs(parameters, x)
        return self.loss.value(z, y), z

    def gradient(self, parameters: Parameters, x: Tensor, y: Tensor, recorded: bool = True) -> Gradient:
        z, tape = self.chain.forward(channels_last(x), *parameters)
        losses, y_bar, loss_tape = self.loss.gradient(z, y)
        if not recorded:
            tape.forget()
        _, value = self.chain.backward(tape, parameters, y_bar, need_x=False)
        record = LayerwiseRecord(Record(tape, parameters, y_bar, value), loss_tape) if recorded else None
        return Gradient(losses, z, value, record)

    def hessian_vector(self, record: LayerwiseRecord, v: Parameters) -> Parameters:
        z_dot, tape_dot = self.chain.tangent(record.at, None, v)
        assert z_dot is not None  # the first recorded layer has parameters
        y_bar_dot = self.loss.tangent(record.loss, z_dot)
        return self.chain.tangent_backward(record.at, tape_dot, v, y_bar_dot, need_x=False)[1]


def channels_last(x: Tensor) -> Tensor:
    """Convert images (B, n, C, H, W) to (B, n, H, W, C); return anything else unchanged."""
    return x.movedim(2, -1).contiguous() if x.dim() == 5 else x


def chain_of(module: nn.Module, in_shape: Shape, of_data: bool = False) -> Chain | None:
    """The layers of a module for samples of `in_shape`, or None if it is not a chain of known layers."""
    modules = flattened(module)
    if modules is None:
        return None
    layers: list[Layer] = []
    counts: list[int] = []
    shape = in_shape
    for part in joined(pooled_first(modules), shape, of_data):
        try:
            layer = LAYERS[type(part)].of(part, shape)
        except RuntimeError:
            return None
        if layer is None or min(layer.out_shape) < 1:  # < 1: no pixel is left; PyTorch's error is clearer
            return None
        shape = layer.out_shape
        layers.append(layer)
        counts.append(len(list(part.parameters())))
    return Chain(layers, counts, in_shape)


def flattened(module: nn.Module) -> list[nn.Module] | None:
    """The modules of a chain in order, with nested `nn.Sequential`s unpacked; None if one is unknown or has hooks."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    if any(hooks) or "forward" in vars(module) or nn.modules.module._has_any_global_hook():
        return None
    if type(module) in LAYERS:
        return [module]
    if type(module) is nn.Identity:
        return []
    if type(module) is not nn.Sequential:
        return None
    parts = [flattened(part) for part in module]
    return None if any(part is None for part in parts) else list(chain(*parts))  # type: ignore[arg-type]


def pooled_first(modules: list[nn.Module]) -> list[nn.Module]:
    """Swap every ReLU with a max-pool that follows it: the same function and gradient, on fewer pixels."""
    modules = list(modules)
    for i in range(1, len(modules)):
        if isinstance(modules[i - 1], nn.ReLU | nn.LeakyReLU) and isinstance(modules[i], nn.MaxPool2d):
            modules[i - 1 : i + 1] = modules[i], modules[i - 1]
    return modules


def joined(modules: list[nn.Module], in_shape: Shape, of_data: bool) -> list[nn.Module]:
    """The same chain, with pairs of modules fused where one layer computes both faster."""
    modules = list(modules)
    front = slice(1, 3) if kinds(modules[:1]) == (Normalize,) else slice(0, 2)
    if of_data and (fused := FUSED_OF_DATA.get(kinds(modules[front]))):
        both = fused(*modules[front])
        if LAYERS[fused].of(both, in_shape) is not None:
            modules[front] = [both]
    for i in range(len(modules) - 1):
        if fused := FUSED.get(kinds(modules[i : i + 2])):
            modules[i : i + 2] = [fused(*modules[i : i + 2])]
    return modules


def kinds(modules: list[nn.Module]) -> tuple[type[nn.Module], ...]:
    return tuple(type(module) for module in modules)
