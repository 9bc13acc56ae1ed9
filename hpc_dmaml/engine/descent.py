"""One inner step, θ − α∘g, with one learning rate for all parameters, or one for each."""

from __future__ import annotations

import torch

from hpc_dmaml.engine.objective import Objective, Parameters
from hpc_dmaml.engine.rates import Rates

Factor = float | Parameters
"""Learning rate α of an inner step: one number, or one for each parameter."""


def factors(objective: Objective, lr: float | Rates) -> list[Factor]:
    """The learning rate of each inner step, in the form that `descend` takes; further steps use the last."""
    return [objective.unflatten(row, 1) for row in lr.each()] if isinstance(lr, Rates) else [lr]


def at_step(by_step: list[Factor], step: int) -> Factor:
    return by_step[min(step, len(by_step) - 1)]


def descend(parameters: Parameters, direction: Parameters, lr: Factor) -> Parameters:
    """parameters − lr ∘ direction"""
    if isinstance(lr, tuple):
        return tuple(torch.addcmul(p, a, d, value=-1) for p, a, d in zip(parameters, lr, direction, strict=True))
    return tuple(torch._foreach_sub(parameters, direction, alpha=lr))


def times(factor: Factor, direction: Parameters) -> Parameters:
    """factor ∘ direction"""
    if isinstance(factor, tuple):
        return tuple(a * d for a, d in zip(factor, direction, strict=True))
    return tuple(factor * d for d in direction)
