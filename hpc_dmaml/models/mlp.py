"""A multi-layer perceptron."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from hpc_dmaml.models.model import Model

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class MLP(Model):
    """Linear layers with ReLU between them; the default is Finn's network for sine waves."""

    hidden: tuple[int, ...] = (40, 40)
    """Widths of the hidden layers."""

    def build(self, sample_shape: tuple[int, ...], outputs: int) -> "nn.Module":
        from torch import nn

        if not all(width > 0 for width in self.hidden):
            raise ValueError(f"model.hidden must be positive widths, not {self.hidden}")
        widths = [math.prod(sample_shape), *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()] if len(sample_shape) > 1 else []
        for inputs, width in pairwise(widths):
            layers += [nn.Linear(inputs, width), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
