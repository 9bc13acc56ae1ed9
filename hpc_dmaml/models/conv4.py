"""The four-block convolutional network of few-shot learning (Vinyals et al., 2016), in MAML's two variants."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hpc_dmaml.models.images import check_images
from hpc_dmaml.models.initialization import glorot
from hpc_dmaml.models.model import Model

if TYPE_CHECKING:
    from torch import nn

MOST_BLOCKS = 64
"""Maximum number of blocks; the image size sets no limit, as a stride of 2 leaves an image of one pixel as it is."""


@dataclass(frozen=True)
class Conv4(Model):
    """Blocks of a 3 × 3 convolution with batch norm and ReLU that halve the image, followed by a linear layer.

    The convolutions have no bias: batch norm would cancel it; its exact gradient is 0, and an adaptive optimizer would
    amplify the rounding noise to full steps.
    """

    filters: int = 64
    """Filters of each convolution: 64 for Omniglot, 32 for mini-ImageNet (Finn et al., 2017, section 5.2)."""
    halving: Literal["stride", "max_pool"] = "stride"
    """How a block halves the image: a stride of 2 (Omniglot) or 2 × 2 max-pooling (mini-ImageNet)."""
    blocks: int = 4
    """Number of blocks."""
    global_pool: bool = False
    """Give the linear layer each filter's mean over the image, as in the paper for Omniglot, or else all positions."""
    init: Literal["pytorch", "glorot"] = "pytorch"
    """Initial weights and biases: PyTorch's defaults, or uniform after Glorot & Bengio (2010) and 0, Keras's defaults."""

    def build(self, sample_shape: tuple[int, ...], outputs: int) -> "nn.Module":
        from torch import nn

        check_images("Conv4", sample_shape)
        if self.filters < 1 or not 1 <= self.blocks <= MOST_BLOCKS:
            raise ValueError(
                f"model.filters must be positive and model.blocks 1 to {MOST_BLOCKS}, not {self.filters} and {self.blocks}"
            )
        channels, *size = sample_shape
        pool = self.halving == "max_pool"
        layers: list[nn.Module] = []
        for _ in range(self.blocks):
            layers += [
                nn.Conv2d(channels, self.filters, 3, stride=1 if pool else 2, padding=1, bias=False),
                nn.BatchNorm2d(self.filters, track_running_stats=False),
                nn.ReLU(),
            ]
            if pool:
                layers.append(nn.MaxPool2d(2))
            channels = self.filters
            size = [side // 2 if pool else (side + 1) // 2 for side in size]
        if min(size) < 1:
            raise ValueError(
                f"model.blocks: images of {sample_shape[1:]} are too small to be halved {self.blocks} times"
            )
        if self.global_pool:
            layers.append(nn.AdaptiveAvgPool2d(1))
            size = [1, 1]
        module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size[0] * size[1], outputs))
        if self.init == "glorot":
            glorot(module)
        return module
