"""The heart: exact meta-gradients for a batch of tasks, and learning curves of their adaptation.

`objective_for` chooses how a model's derivatives are computed; `meta_gradient` and `learning_curve` do the rest.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from hpc_dmaml.engine.autograd import AutogradObjective
from hpc_dmaml.engine.layerwise import LayerwiseObjective
from hpc_dmaml.engine.losses import LOSSES
from hpc_dmaml.engine.meta_gradient import InnerLoop, MetaGradient, adapt, learning_curve, meta_gradient
from hpc_dmaml.engine.objective import Objective

__all__ = [
    "LOSSES",
    "InnerLoop",
    "MetaGradient",
    "Objective",
    "adapt",
    "default_chunk",
    "learning_curve",
    "meta_gradient",
    "objective_for",
]

RANDOM_LAYERS = (nn.modules.dropout._DropoutNd, nn.RReLU)
WORKING_SET_BYTES = 1 << 24
"""Of the widest layer's activations: small tasks go together, so that calls cost little; large ones go one by one."""


def objective_for(module: nn.Module, sample_shape: tuple[int, ...], loss: str) -> Objective:
    """The fast objective if `module` is a chain of known layers, else the general one.

    Raises ValueError for a module whose output is random: its gradient would be that of another function at each call;
    and for the name of a loss that there is not.
    """
    for name, part in module.named_modules():
        if isinstance(part, RANDOM_LAYERS) or (isinstance(part, nn.RNNBase) and part.dropout > 0):
            raise ValueError(
                f"model: layer {name or type(part).__name__} ({type(part).__name__}) is random, which adaptation by "
                "gradient descent cannot use; leave it out, or set its probability in the module to none by nn.Identity"
            )
    if not any(True for _ in module.parameters()):
        raise ValueError("model: it has no parameters to learn")
    if loss not in LOSSES:
        raise ValueError(f"task: there is no loss {loss!r}; known are {', '.join(sorted(LOSSES))}")
    return LayerwiseObjective.of(module, sample_shape, LOSSES[loss]) or AutogradObjective(module, LOSSES[loss])


def default_chunk(objective: Objective, samples: int, device: torch.device) -> int:
    """How many tasks to compute at once: on a CPU as many as keep a layer's activations near the core, on a GPU all.

    `samples`: the inputs of one task. The answer depends on model and task sizes only, never on the number of ranks,
    because the order of summation follows from it.
    """
    if not isinstance(objective, LayerwiseObjective) or device.type != "cpu":
        return 1 << 30
    widest = max(math.prod(layer.out_shape) for layer in objective.layers)
    return max(1, WORKING_SET_BYTES // (4 * widest * samples))
