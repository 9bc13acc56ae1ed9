"""Models whose parameters are meta-learned."""

from hpc_dmaml.models.conv4 import Conv4
from hpc_dmaml.models.mlp import MLP, GaussianPolicy
from hpc_dmaml.models.model import Model
from hpc_dmaml.models.module import Module
from hpc_dmaml.models.resnet12 import ResNet12

__all__ = ["MLP", "Conv4", "GaussianPolicy", "Model", "Module", "ResNet12"]
