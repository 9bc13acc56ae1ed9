"""Initial parameters other than PyTorch's defaults."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def glorot(module: "nn.Module") -> None:
    """Set the weights of linear layers and convolutions as in Glorot & Bengio (2010), uniform, and their biases to 0."""
    from torch import nn

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
