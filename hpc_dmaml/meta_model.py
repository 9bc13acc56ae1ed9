"""A trained meta-model, to be used: load it, adapt it to a few labelled samples, export it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor, nn

from hpc_dmaml import results
from hpc_dmaml.config import RunConfig, positive, require, stored_in
from hpc_dmaml.engine import adapt, objective_for
from hpc_dmaml.files import expanded
from hpc_dmaml.parameters import Layout, set_constants
from hpc_dmaml.start import layout_of, stored_module, stored_parameters
from hpc_dmaml.tasks import Samples, border

Which = Literal["last", "best"]
Array = Tensor | np.ndarray


@dataclass(frozen=True)
class TrainedModel:
    """A meta-model with the configuration that it was trained with."""

    config: RunConfig
    module: nn.Module
    """The meta-model itself: a starting point, not yet a solution."""
    sample_shape: tuple[int, ...]
    outputs: int
    loss: str
    layout: Layout
    layerwise: bool = True
    """May the layers' own formulas be used, if it is a chain of known layers?"""

    def adapt(self, x: Array, y: Array, steps: int | None = None, lr: float | None = None) -> nn.Module:
        """A copy of the model, adapted to one task by gradient descent.

        Batch norm goes on using the statistics of whatever batch it is given, as in training, also after `.eval()`.

        Args:
            x: (n, *sample_shape), scaled as in training: images as numbers in [0, 1], or as bytes.
            y: (n,) class numbers from 0 below the ways, or (n, outputs) in regression.
            steps: adaptation steps; default those of validation in training.
            lr: inner learning rate; default that of training.

        Raises ValueError where they are not such.
        """
        steps = self.config.validation.steps if steps is None else steps
        lr = self.config.maml.inner_lr if lr is None else lr
        require(isinstance(steps, int) and steps >= 0, "steps", steps, "a whole number, 0 or more")
        positive("lr", lr)
        given = Samples(*(each[None] if isinstance(each, Tensor) else np.asarray(each)[None] for each in (x, y)))
        border.check(given, self, "adapt:", tasks=1)
        theta = self.layout.flatten(self.module)
        support = given.to(theta.device, theta.dtype)
        for name, each in zip("xy", support, strict=True):
            require(bool(each.isfinite().all()), f"adapt: {name}", "inf or NaN", "finite")
        objective = objective_for(self.module, self.sample_shape, self.loss, self.layout, self.layerwise)
        try:
            *_, adapted = adapt(objective, objective.enter(theta, 1), support, lr, steps)
        except (RuntimeError, IndexError) as error:
            raise ValueError(f"adapt: the model cannot take these samples: {error}") from error
        return self.layout.fill(copy.deepcopy(self.module), objective.flat(adapted)[0])

    def state_dict(self) -> dict[str, Tensor]:
        """The meta-model's parameters, as any PyTorch code loads them; with task.normalize its constants stand beside them.

        Norms have no running statistics, for there are none that say anything of an adapted model: a module that keeps
        some takes this by `load_state_dict(…, strict=False)`, and is to be left in training mode.
        """
        return dict(self.module.state_dict())


def load(path: str | Path, which: Which = "last", trust: bool = False) -> TrainedModel:
    """The meta-model in a result file: its last parameters, or the best by validation.

    A file names classes: those of this package and of torch.nn are taken as they are. With `trust`, modules of your own are
    imported too, which runs their code.

    Raises ValueError, naming the file, where it is damaged or not a result, or asks for an import that is not trusted.
    """
    source = results.read(expanded(path))
    config = stored_in(source, lambda _: trust)
    sample_shape, outputs = tuple(int(n) for n in source.attribute("sample_shape")), int(source.attribute("outputs"))
    module, layout = stored_module(source, config, sample_shape, outputs), layout_of(source)
    layout.fill(module, stored_parameters(source, layout, which))
    set_constants(module, source.group("meta_model/constants/"), str(source.path))
    layerwise = source.attributes.get("derivatives") != "autograd"
    return TrainedModel(config, module, sample_shape, outputs, str(source.attribute("loss")), layout, layerwise)
