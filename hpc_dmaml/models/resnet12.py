"""The residual network of few-shot learning (Lee et al., 2019, MetaOptNet, section 4.1), without its DropBlock."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_dmaml.models.images import check_images
from hpc_dmaml.models.model import Model

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ResNet12(Model):
    """Four blocks of three 3 × 3 convolutions with batch norm and LeakyReLU; global average pooling; a linear layer.

    A block's input, after a 1 × 1 convolution with batch norm, is added before its last LeakyReLU; 2 × 2 max-pooling
    then halves the image.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512)
    """Channels of each block: 8.0 million parameters; the also common 64, 160, 320, 640 have 12.4 million."""
    slope: float = 0.1
    """Slope of LeakyReLU for negative inputs."""

    def build(self, sample_shape: tuple[int, ...], outputs: int) -> "nn.Module":
        from torch import nn

        check_images("ResNet12", sample_shape)
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"model.channels must be positive numbers, one a block, not {self.channels}")
        if not 0 <= self.slope <= 1:
            raise ValueError(f"model.slope must be 0 to 1, not {self.slope}")
        inputs, *size = sample_shape
        if min(size) < 2 ** len(self.channels):
            raise ValueError(
                f"model.channels: images of {sample_shape[1:]} are too small to be halved {len(self.channels)} times"
            )
        blocks: list[nn.Module] = []
        for channels in self.channels:
            blocks.append(_block(inputs, channels, self.slope))
            inputs = channels
        module = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, outputs))
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, self.slope, "fan_out", "leaky_relu")
        return module


def _block(inputs: int, channels: int, slope: float) -> "nn.Module":
    from torch import nn

    from hpc_dmaml.engine.layers import Residual

    def convolution(inputs: int, size: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, channels, size, padding=size // 2, bias=False),
            nn.BatchNorm2d(channels, track_running_stats=False),
        ]

    body = convolution(inputs, 3)
    for _ in range(2):
        body += [nn.LeakyReLU(slope), *convolution(channels, 3)]
    shortcut = convolution(inputs, 1)
    return nn.Sequential(Residual(nn.Sequential(*body), nn.Sequential(*shortcut)), nn.LeakyReLU(slope), nn.MaxPool2d(2))
