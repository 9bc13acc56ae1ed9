"""Policies: networks that give the distribution of an action, for reinforcement learning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from hpc_dmaml.models.model import Model

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class GaussianPolicy(Model):
    """A multi-layer perceptron for the mean of an action, and a free log σ for each of its components.

    The outputs are (mean, log σ), as `GaussianPolicyGradient` wants them; the defaults are Finn's for navigation.
    """

    hidden: tuple[int, ...] = (100, 100)
    """Widths of the hidden layers."""
    activation: Literal["relu", "tanh"] = "relu"
    """What is between them."""
    log_sigma: float = 0.0
    """log σ at first."""

    def build(self, sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
        from torch import nn

        from hpc_dmaml.engine.layers import Append

        if outputs % 2:
            raise ValueError(
                f"model GaussianPolicy gives means and as many log σ, but the task wants {outputs} outputs"
            )
        return nn.Sequential(
            *_layers(self.hidden, self.activation, sample_shape, outputs // 2), Append(outputs // 2, self.log_sigma)
        )


@dataclass(frozen=True)
class CategoricalPolicy(Model):
    """A multi-layer perceptron for the logits of a discrete action, as `CategoricalPolicyGradient` wants them."""

    hidden: tuple[int, ...] = (100, 100)
    """Widths of the hidden layers."""
    activation: Literal["relu", "tanh"] = "relu"
    """What is between them."""

    def build(self, sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
        from torch import nn

        return nn.Sequential(*_layers(self.hidden, self.activation, sample_shape, outputs))


def _layers(hidden: tuple[int, ...], activation: str, sample_shape: tuple[int, ...], outputs: int) -> list[nn.Module]:
    from torch import nn

    if not all(width > 0 for width in hidden):
        raise ValueError(f"model.hidden must be positive widths, not {hidden}")
    widths = [math.prod(sample_shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()] if len(sample_shape) > 1 else []
    for inputs, width in pairwise(widths):
        layers += [nn.Linear(inputs, width), nn.ReLU() if activation == "relu" else nn.Tanh()]
    return [*layers, nn.Linear(widths[-1], outputs)]
