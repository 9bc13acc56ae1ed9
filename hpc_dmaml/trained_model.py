"""Use a trained meta-model: load it, adapt it to a few labelled samples, export it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from hpc_dmaml import results
from hpc_dmaml.algorithms import Algorithm, whole_layout
from hpc_dmaml.config import RunConfig, positive, require, stored_in
from hpc_dmaml.engine import objective_for
from hpc_dmaml.files import expanded
from hpc_dmaml.losses import Loss, PolicyGradient, named
from hpc_dmaml.parameters import Layout, set_constants
from hpc_dmaml.requirements import is_whole
from hpc_dmaml.start import layout_of, stored_module, stored_parameters
from hpc_dmaml.state import stored_best
from hpc_dmaml.tasks import Samples, TaskBatch, border
from hpc_dmaml.tasks.data_mark import DataMark

Which = Literal["last", "best"]
Array = Tensor | np.ndarray


@dataclass(frozen=True)
class TrainedModel:
    """A meta-model with the configuration that it was trained with."""

    config: RunConfig
    module: nn.Module
    """The meta-model itself: initial parameters, not yet adapted to a task."""
    sample_shape: tuple[int, ...]
    outputs: int
    loss: Loss
    layout: Layout
    """Layout of the module's parameters θ (P,)."""
    learned: Tensor
    """What the algorithm learned besides θ, such as inner learning rates, (Q,)."""
    layerwise: bool
    """Whether the layers' own derivative formulas may be used, if the module is a chain of known layers."""
    data: DataMark
    """The data that it was trained on."""
    told: str
    """A description in three lines: which parameters of which job these are."""

    def __repr__(self) -> str:
        return self.told

    def adapt(self, x: Array, y: Array, steps: int | None = None, lr: float | None = None) -> nn.Module:
        """A copy of the model, adapted to one task by gradient descent.

        Batch norm always uses the statistics of the batch that it is given, as in training, also after `.eval()`.

        Args:
            x: (n, *sample_shape), scaled as in training: images as numbers in [0, 1], or as bytes.
            y: (n,) class numbers from 0 to ways − 1, or (n, outputs) in regression.
            steps: adaptation steps; default those of validation in training.
            lr: inner learning rate; default that of the algorithm, or the ones that it has learned.

        Raises ValueError for other arguments.
        """
        if isinstance(self.loss, PolicyGradient):
            raise ValueError(
                "adapt: a policy adapts to trajectories of its own, not to samples: see examples/trajectories.py"
            )
        steps = self.config.validation.steps if steps is None else steps
        algorithm = self.config.algorithm if lr is None else self._with(lr)
        require(is_whole(steps), "steps", repr(steps), "a whole number, 0 or more")
        try:
            given = Samples(*(each[None] if isinstance(each, Tensor) else np.asarray(each)[None] for each in (x, y)))
        except ValueError as error:
            raise ValueError(f"adapt: x and y must be arrays of numbers: {error}") from error
        border.check(given, self, "adapt:", tasks=1)
        phi = self.phi
        support = given.to(phi.device, phi.dtype)
        for name, each in zip("xy", support, strict=True):
            require(bool(each.isfinite().all()), f"adapt: {name}", "inf or NaN", "finite")
        objective = objective_for(self.module, self.sample_shape, self.loss, self.layout, self.layerwise)
        try:
            start = objective.unflatten(phi[: self.layout.size], 1)
            *_, adapted = algorithm.adapt(objective, phi, start, TaskBatch(support, support), steps)
        except (RuntimeError, IndexError) as error:
            raise ValueError(f"adapt: the model cannot take these samples: {error}") from error
        return self.layout.fill(copy.deepcopy(self.module), objective.flatten(adapted)[0])

    @property
    def phi(self) -> Tensor:
        """All that was meta-learned, (P + Q,): the module's parameters, and what the algorithm learned besides."""
        return torch.cat([self.layout.flatten(self.module), self.learned])

    def _with(self, lr: float) -> Algorithm:
        """The algorithm with another inner rate. Raises ValueError where it has none, or has learned its rates."""
        positive("lr", lr)
        try:
            algorithm = replace(self.config.algorithm, inner_lr=lr)  # type: ignore[type-var]
        except TypeError as error:
            raise ValueError(f"lr: {type(self.config.algorithm).__name__} has no inner_lr: leave it out") from error
        if len(self.learned):
            raise ValueError(f"lr: {type(algorithm).__name__} has learned its inner rates: leave it out")
        return algorithm

    def state_dict(self) -> dict[str, Tensor]:
        """The meta-model's parameters, as any PyTorch code loads them; with task.normalize also its constants.

        Norms have no running statistics, as none would be valid for an adapted model: a module that has some loads this
        by `load_state_dict(…, strict=False)`, and has to stay in training mode.
        """
        return dict(self.module.state_dict())


def load(path: str | Path, which: Which = "last", trust: bool = False) -> TrainedModel:
    """Load the meta-model from a result file: its last parameters, or the best by validation.

    A file names classes: those of this package and of torch.nn are always accepted. With `trust`, your own modules are
    imported too, which runs their code.

    Raises ValueError, naming the file, where it is damaged or not a result, holds no best parameters, or needs an import
    that is not trusted.
    """
    require(which in get_args(Which), "which", repr(which), " or ".join(get_args(Which)))
    source = _read(path, trust)
    return _model(source, source["meta_model/parameters"] if which == "last" else _best(source)[0], which, trust)


def load_best(path: str | Path, trust: bool = False) -> list[TrainedModel]:
    """Load all of the best meta-models by validation from a result file, the best first: up to the job's
    `validation.keep`, each to be adapted separately. The first is that of `load(path, "best")`.

    Raises ValueError as `load` does.
    """
    source = _read(path, trust)
    best = _best(source)
    names = ("best", *(f"{place}. best" for place in range(2, len(best) + 1)))
    return [_model(source, parameters, name, trust) for parameters, name in zip(best, names, strict=True)]


def _read(path: str | Path, trust: bool) -> results.Results:
    require(isinstance(path, str | Path), "path", repr(path), "the path of a result file")
    require(isinstance(trust, bool), "trust", repr(trust), "True or False")
    return results.read(expanded(path))


def _best(source: results.Results) -> list[np.ndarray]:
    """The parameters φ of the best validations, the best first. Raises ValueError without one."""
    best = [each.parameters for each in stored_best(source)]
    if not best:
        raise ValueError(
            f"which: {source.path} has no best parameters, as no validation of it was finite; take the last"
        )
    return best


def _model(source: results.Results, parameters: np.ndarray, which: str, trust: bool) -> TrainedModel:
    """The meta-model of a file with these `parameters` φ."""
    config = stored_in(source, lambda _: trust)
    sample_shape, outputs = tuple(int(n) for n in source.attribute("sample_shape")), int(source.attribute("outputs"))
    module, layout = stored_module(source, config, sample_shape, outputs), layout_of(source).model
    whole = whole_layout(config.algorithm, layout)
    phi = stored_parameters(source, parameters, whole, torch.zeros(whole.size))
    layout.fill(module, phi[: layout.size])
    loss, learned = named(str(source.attribute("loss")), lambda _: trust), phi[layout.size :]
    set_constants(module, source.group("meta_model/constants/"), str(source.path))
    layerwise = source.attributes.get("derivatives") != "autograd"
    data, told = DataMark.stored_in(source), f"{which} parameters of {source!r}"
    return TrainedModel(config, module, sample_shape, outputs, loss, layout, learned, layerwise, data, told)
