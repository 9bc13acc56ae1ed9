"""The general objective: autograd, one task after another, for any module that `torch.func.functional_call` can run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hpc_dmaml.engine.module import copied
from hpc_dmaml.engine.objective import Gradient, Parameters
from hpc_dmaml.losses import Loss
from hpc_dmaml.parameters import Layout


class AutogradRecord(NamedTuple):
    """The parameters and gradients of every task, attached to their autograd graphs."""

    parameters: list[list[Tensor]]
    gradients: list[list[Tensor]]


class AutogradObjective:
    """Exact derivatives of every differentiable module, at the cost of a graph and a Python loop over tasks.

    The module keeps its mode (training or evaluation); its buffers are used as they are and never changed.
    """

    derivatives = "autograd"

    def __init__(self, module: nn.Module, layout: Layout, loss: Loss) -> None:
        # A copy, because `functional_call` does not restore the parameters of a module that is used in two places.
        self.module, self.layout, self.loss = copied(module), layout, loss
        self._is_twice_differentiable = False

    def with_loss(self, loss: Loss) -> AutogradObjective:
        other = copy(self)
        other.loss = loss
        return other

    def unflatten(self, theta: Tensor, tasks: int) -> Parameters:
        return tuple(self.layout.views(theta.expand(tasks, -1)).values())

    def flatten(self, parameters: Parameters) -> Tensor:
        return torch.cat([p.reshape(len(p), -1) for p in parameters], 1)

    enter, flat = unflatten, flatten  # their former names

    def outputs(self, parameters: Parameters, x: Tensor) -> Tensor:
        own = [p.clone() for p in parameters]  # a module may change them
        return torch.stack([self._call([p[b] for p in own], x[b]) for b in range(len(x))])

    def value(self, parameters: Parameters, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.outputs(parameters, x)
        return self.loss.value(outputs, y), outputs

    def gradient(self, parameters: Parameters, x: Tensor, y: Tensor, recorded: bool = True) -> Gradient:
        record, losses, outputs = AutogradRecord([], []), [], []
        for b in range(len(x)):
            with torch.enable_grad():
                leaves = [p[b].detach().clone().requires_grad_() for p in parameters]
                z = self._call(leaves, x[b])
                loss = self.loss.value(z[None], y[b : b + 1])[0]
                gradients = torch.autograd.grad(loss, leaves, create_graph=recorded, materialize_grads=True)
            record.parameters.append(leaves)
            record.gradients.append(list(gradients))
            losses.append(loss.detach())
            outputs.append(z.detach())
        value = tuple(torch.stack([g.detach() for g in each]) for each in zip(*record.gradients, strict=True))
        return Gradient(torch.stack(losses), torch.stack(outputs), value, record if recorded else None)

    def hessian_vector(self, record: AutogradRecord, v: Parameters) -> Parameters:
        if not self._is_twice_differentiable:
            check_twice_differentiable(record.gradients[0])
            self._is_twice_differentiable = True
        products = []
        for b, (leaves, gradients) in enumerate(zip(*record, strict=True)):
            on_graph = [(g, u[b]) for g, u in zip(gradients, v, strict=True) if g.requires_grad]
            if on_graph:
                with torch.enable_grad():
                    along_v = torch.stack([(g * u).sum() for g, u in on_graph]).sum()
                product = torch.autograd.grad(along_v, leaves, retain_graph=True, materialize_grads=True)
            else:  # the loss is linear in every parameter
                product = tuple(torch.zeros_like(p) for p in leaves)
            products.append(product)
        return tuple(torch.stack(each) for each in zip(*products, strict=True))

    def _call(self, parameters: list[Tensor], x: Tensor) -> Tensor:
        """The outputs for one task. The module may change what it is given in place."""
        named = dict(zip(self.layout.names, parameters, strict=True))
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        with twice_differentiable():
            return functional_call(self.module, {**named, **buffers}, (x.clone(),))


def check_twice_differentiable(gradients: list[Tensor]) -> None:
    """Raise ValueError if a function on the gradients' graph is marked `once_differentiable`.

    PyTorch itself silently skips such a node if the parameters can be reached by other paths.
    """
    nodes, seen = [g.grad_fn for g in gradients], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise ValueError(
                "model: a function in it is once_differentiable, so that its second derivative is not known"
            )
        seen.add(node)
        nodes += [below for below, _ in node.next_functions]


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Disable PyTorch's fused kernels within the block: attention's have no second derivative, weight_norm's a wrong one,
    and that of Transformers, which is used without gradients alone, gives other outputs where samples are padded."""
    cuda, mha = torch.backends.cuda, torch.backends.mha
    switches: tuple[tuple[Callable[[], bool], Callable[[bool], object]], ...] = (
        (mha.get_fastpath_enabled, mha.set_fastpath_enabled),
        (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
        (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
        (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
    )
    before, fused = [is_on() for is_on, _ in switches], torch._weight_norm
    for _, switch in switches:
        switch(False)
    torch._weight_norm = _weight_norm
    try:
        yield
    finally:
        torch._weight_norm = fused
        for (_, switch), was_on in zip(switches, before, strict=True):
            switch(was_on)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))
