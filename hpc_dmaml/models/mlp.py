"""A multi-layer perceptron, and a Gaussian policy based on it."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from hpc_dmaml.models.initialization import glorot
from hpc_dmaml.models.model import Model

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class MLP(Model):
    """Linear layers with a nonlinearity between them; the default is Finn et al.'s (2017) network for sine waves.

    With the logits of discrete actions as outputs it is also a policy.
    """

    hidden: tuple[int, ...] = (40, 40)
    """Widths of the hidden layers."""
    activation: Literal["relu", "tanh"] = "relu"
    """Nonlinearity after each hidden layer."""

    def build(self, sample_shape: tuple[int, ...], outputs: int) -> "nn.Module":
        from torch import nn

        if not all(width > 0 for width in self.hidden):
            raise ValueError(f"model.hidden must be positive widths, not {self.hidden}")
        widths = [math.prod(sample_shape), *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()] if len(sample_shape) > 1 else []
        for inputs, width in pairwise(widths):
            layers += [nn.Linear(inputs, width), nn.ReLU() if self.activation == "relu" else nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


@dataclass(frozen=True)
class GaussianPolicy(MLP):
    """The mean of an action by a multi-layer perceptron, and a learned log σ for each of its components.

    The outputs are (mean, log σ), as `GaussianPolicyGradient` takes them. Defaults and initialisation are Finn et al.'s
    for navigation: weights by Glorot & Bengio (2010), and biases of 0, so that an untrained policy does not drift.
    """

    hidden: tuple[int, ...] = (100, 100)
    """Widths of the hidden layers."""
    log_sigma: float = 0.0
    """Initial log σ."""

    def build(self, sample_shape: tuple[int, ...], outputs: int) -> "nn.Module":
        from torch import nn

        from hpc_dmaml.engine.layers import Append

        if outputs % 2:
            raise ValueError(
                f"model GaussianPolicy gives means and as many log σ, but the task wants {outputs} outputs"
            )
        means = super().build(sample_shape, outputs // 2)
        assert isinstance(means, nn.Sequential)
        glorot(means)
        return nn.Sequential(*means, Append(outputs // 2, self.log_sigma))
