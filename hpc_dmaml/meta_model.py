"""A trained meta-model, to be used: load it, adapt it to a few labelled samples, export it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from hpc_dmaml import results
from hpc_dmaml.config import RunConfig, stored_in
from hpc_dmaml.engine import adapt, objective_for
from hpc_dmaml.files import expanded
from hpc_dmaml.parameters import Layout
from hpc_dmaml.setup import stored_module, stored_parameters
from hpc_dmaml.tasks import Samples

Which = Literal["last", "best"]


@dataclass(frozen=True)
class TrainedModel:
    """A meta-model with the configuration that it was trained with."""

    config: RunConfig
    module: nn.Module
    """The meta-model itself: a starting point, not yet a solution."""
    sample_shape: tuple[int, ...]
    loss: str

    def adapt(self, x: Tensor, y: Tensor, steps: int | None = None, lr: float | None = None) -> nn.Module:
        """A copy of the model, adapted to one task by gradient descent.

        Batch norm goes on using the statistics of whatever batch it is given, as in training.

        Args:
            x: (n, *sample_shape), scaled as in training: images in [0, 1].
            y: (n,) class numbers from 0 below the ways, or (n, outputs) in regression.
            steps: adaptation steps; default those of validation in training.
            lr: inner learning rate; default that of training.
        """
        theta = torch.cat([p.detach().reshape(-1) for p in self.module.parameters()])
        objective = objective_for(copy.deepcopy(self.module), self.sample_shape, self.loss)
        support = Samples(x[None].to(theta), y[None] if y.dtype == torch.int64 else y[None].to(theta))
        steps = self.config.validation.steps if steps is None else steps
        lr = self.config.maml.inner_lr if lr is None else lr
        *_, adapted = adapt(objective, objective.enter(theta, 1), support, lr, steps)
        return _with_parameters(copy.deepcopy(self.module), objective.flat(adapted)[0])

    def state_dict(self) -> dict[str, Tensor]:
        """The meta-model's parameters, as any PyTorch code loads them."""
        return dict(self.module.state_dict())


def load(path: str | Path, which: Which = "last", trust: bool = False) -> TrainedModel:
    """The meta-model in a result file: its last parameters, or the best by validation.

    A file names classes: those of this package and of torch.nn are taken as they are. With `trust`, modules of your own are
    imported too, which runs their code.

    Raises ValueError, naming the file, where it is damaged or not a result, or asks for an import that is not trusted.
    """
    source = results.read(expanded(path))
    config = stored_in(source, lambda _: trust)
    sample_shape = tuple(int(n) for n in source.attribute("sample_shape"))
    module = stored_module(source, config, sample_shape, int(source.attribute("outputs")))
    module = _with_parameters(module, stored_parameters(source, Layout.of(module), which))
    return TrainedModel(config, module, sample_shape, str(source.attribute("loss")))


def _with_parameters(module: nn.Module, theta: Tensor) -> nn.Module:
    with torch.no_grad():
        for name, values in Layout.of(module).views(theta).items():
            module.get_parameter(name).copy_(values)
    return module
