"""What the engine is compared with: MAML as everyone writes it, one task after another through autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hpc_dmaml.engine import InnerLoop
from hpc_dmaml.engine.layers import Normalize, Residual
from hpc_dmaml.models import MLP, Conv4, ResNet12
from hpc_dmaml.parameters import Layout, flatten
from hpc_dmaml.tasks import Samples, TaskBatch

LOSSES = {"cross_entropy": F.cross_entropy, "squared_error": F.mse_loss}


class NoChain(nn.Module):
    """A user's own module that is no chain of layers, with normalisation that keeps running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Tanh())
        self.scale = nn.Parameter(torch.tensor([0.7]))
        self.head = nn.Linear(2 * 4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x * self.scale + self.inside(x)).flatten(1))


def normalized(module: nn.Module) -> nn.Sequential:
    """The module behind a fixed layer that normalises its images, of one channel."""
    front = Normalize(1)
    front.mean.fill_(0.4)
    front.std.fill_(0.3)
    return nn.Sequential(front, module)


@dataclass(frozen=True)
class Problem:
    """A model, the samples that it takes, and a loss."""

    build: Callable[[], nn.Module]
    sample_shape: tuple[int, ...]
    outputs: int
    loss: str = "cross_entropy"
    fast: bool = True
    """Is it a chain of layers with formulas?"""

    def module(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """With every parameter moved off its initial value, so that none is a special case."""
        torch.manual_seed(seed)
        module = self.build().to(dtype)
        with torch.no_grad():
            for p in module.parameters():
                p.add_(torch.randn_like(p), alpha=0.1)
        return module

    def batch(self, tasks: int = 3, shots: int = 6, queries: int = 4, seed: int = 0) -> TaskBatch:
        rng = torch.Generator().manual_seed(seed)

        def samples(n: int) -> Samples:
            x = torch.randn(tasks, n, *self.sample_shape, generator=rng, dtype=torch.float64)
            if self.loss == "squared_error":
                return Samples(x.numpy(), torch.randn(tasks, n, self.outputs, generator=rng).numpy())
            return Samples(x.numpy(), torch.randint(self.outputs, (tasks, n), generator=rng).numpy())

        return TaskBatch(samples(shots), samples(queries))


PROBLEMS = {
    "mlp": Problem(lambda: MLP((8, 7)).build((3,), 2), (3,), 2, "squared_error"),
    "mlp_on_images": Problem(lambda: MLP((6,)).build((2, 3, 3), 3), (2, 3, 3), 3),
    "conv4_stride": Problem(lambda: Conv4(4, "stride", 3).build((1, 9, 9), 3), (1, 9, 9), 3),
    "conv4_of_many_filters": Problem(lambda: Conv4(32, "stride", 2).build((1, 7, 7), 3), (1, 7, 7), 3),
    "conv4_normalized": Problem(lambda: normalized(Conv4(32, "stride", 2).build((1, 7, 7), 3)), (1, 7, 7), 3),
    "conv4_max_pool": Problem(lambda: Conv4(3, "max_pool", 2).build((2, 8, 8), 3), (2, 8, 8), 3),
    "conv4_max_pool_odd": Problem(lambda: Conv4(3, "max_pool", 2).build((1, 7, 10), 3), (1, 7, 10), 3),
    "conv4_global_pool": Problem(lambda: Conv4(4, "stride", 2, True).build((1, 7, 10), 3), (1, 7, 10), 3),
    "resnet12": Problem(lambda: ResNet12((3, 4)).build((2, 9, 6), 3), (2, 9, 6), 3),
    "convolutions_with_bias": Problem(
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(3, 4, (2, 3), stride=2, padding=(0, 1)),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * 3 * 3, 3),
        ),
        (2, 6, 6),
        3,
    ),
    "batch_norm_with_running_statistics": Problem(
        lambda: nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU()),
            nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)),
        ),
        (1, 6, 6),
        2,
    ),
    "batch_norm_first": Problem(lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)), (4,), 3, "squared_error"),
    "residual_of_an_activation_first": Problem(
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(4, 3), Residual(nn.Sequential(nn.ReLU(), nn.Linear(3, 3)), nn.LeakyReLU(0.2))
        ),
        (1, 2, 2),
        3,
    ),
    "layers_without_formulas": Problem(
        lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 3)), (4,), 3, fast=False
    ),
    "not_a_chain": Problem(NoChain, (2, 4, 4), 3, fast=False),
}


def call(module: nn.Module, theta: dict[str, Tensor], x: Tensor) -> Tensor:
    """The module in training mode, its buffers left as they are."""
    return functional_call(module.train(), {**theta, **{n: b.clone() for n, b in module.named_buffers()}}, (x,))


Rate = Callable[[int], Tensor | float]
"""α (P,) of an inner step, counted from 0."""


def adapted_losses(
    module: nn.Module, loss: str, theta: Tensor, batch: TaskBatch, inner: InnerLoop, rate: Rate | None = None
) -> Tensor:
    """Query losses (B,) after adaptation, on the autograd graph of θ (P,) and of the rates; weighted over the steps, if
    `inner.weights` says so."""
    batch = batch.to(theta.device, theta.dtype)
    layout, losses = Layout.of(module), []
    rate = rate or (lambda step: inner.lr)  # type: ignore[arg-type,return-value]
    weights = inner.weights or (*[0.0] * (inner.steps - 1), 1.0)
    for b in range(len(batch)):
        (x, y), (query_x, query_y) = (Samples(*(each[b] for each in s)) for s in (batch.support_set, batch.query_set))
        own, total = theta, []
        for step in range(inner.steps):
            with torch.enable_grad():
                named = layout.views(own)
                support_loss = LOSSES[loss](call(module, named, x), y)
            gradients = torch.autograd.grad(
                support_loss, list(named.values()), create_graph=not inner.first_order, materialize_grads=True
            )
            own = own - rate(step) * torch.cat([g.reshape(-1) for g in gradients])
            if step + 1 < inner.steps and weights[step]:
                total.append(weights[step] * LOSSES[loss](call(module, layout.views(own), query_x), query_y))
        total.append(weights[-1] * LOSSES[loss](call(module, layout.views(own), query_x), query_y))
        losses.append(torch.stack(total).sum())
    return torch.stack(losses)


def plain_loop(module: nn.Module, loss: str, batch: TaskBatch, inner: InnerLoop) -> tuple[Tensor, Tensor]:
    """Meta-gradient (P,) and query losses (B,)."""
    theta = flatten(module).requires_grad_()
    losses = adapted_losses(module, loss, theta, batch, inner)
    return torch.autograd.grad(losses.sum(), theta)[0], losses.detach()


def distance(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ / ‖b‖ in float64."""
    a, b = a.double(), b.double()
    return ((a - b).norm() / b.norm()).item()
