"""The engine: exact meta-gradients for a batch of tasks, and learning curves of their adaptation.

`objective_for` chooses how a model's derivatives are computed; `meta_gradient` and `learning_curve` do the rest.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from hpc_dmaml.engine.autograd import AutogradObjective
from hpc_dmaml.engine.compiled import Compiler
from hpc_dmaml.engine.layerwise import LayerwiseObjective
from hpc_dmaml.engine.meta_gradient import (
    Engine,
    InnerLoop,
    MetaGradient,
    acting,
    adapt,
    chunks,
    compiled_parts,
    for_tasks,
    learning_curve,
    meta_gradient,
)
from hpc_dmaml.engine.module import prepare
from hpc_dmaml.engine.objective import Objective, Parameters
from hpc_dmaml.engine.rates import Rates, rates
from hpc_dmaml.engine.trial import try_out
from hpc_dmaml.losses import LOSSES, Loss, named
from hpc_dmaml.parameters import Layout

__all__ = [
    "LOSSES",
    "Compiler",
    "Engine",
    "InnerLoop",
    "MetaGradient",
    "Objective",
    "Parameters",
    "Rates",
    "acting",
    "adapt",
    "chunks",
    "compiled_parts",
    "default_chunk",
    "for_tasks",
    "learning_curve",
    "meta_gradient",
    "objective_for",
    "prepare",
    "rates",
    "try_out",
]

WORKING_SET_BYTES = 1 << 24
"""Target size in bytes of the widest layer's activations in one chunk of tasks, so that they stay in a CPU's cache."""


def objective_for(
    module: nn.Module,
    sample_shape: tuple[int, ...],
    loss: Loss | str,
    layout: Layout | None = None,
    layerwise: bool = True,
) -> Objective:
    """The fast objective if `module` is a chain of known layers and `layerwise` allows it, else the general one.

    `layout`: the order of the parameters in θ; by default the module's own. Raises ValueError for an unknown loss.
    """
    layout, loss = layout or Layout.of(module), named(loss)
    fast = LayerwiseObjective.of(module, layout, sample_shape, loss) if layerwise else None
    return fast or AutogradObjective(module, layout, loss)


def default_chunk(objective: Objective, samples: int, device: torch.device) -> int:
    """The number of tasks to compute at once: with layerwise derivatives on a CPU by `WORKING_SET_BYTES`, else all.

    `samples`: the inputs of one task. The result depends on model and task sizes only, never on the number of ranks,
    because it determines the order of summation.
    """
    if not isinstance(objective, LayerwiseObjective) or device.type != "cpu":
        return 1 << 30
    widest = max(math.prod(layer.out_shape) for layer in objective.layers)
    return max(1, WORKING_SET_BYTES // (4 * widest * samples))
