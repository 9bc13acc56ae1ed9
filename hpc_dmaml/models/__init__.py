"""Models: what is meta-learned."""

from hpc_dmaml.models.conv4 import Conv4
from hpc_dmaml.models.mlp import MLP
from hpc_dmaml.models.model import Model
from hpc_dmaml.models.module import Module
from hpc_dmaml.models.policy import CategoricalPolicy, GaussianPolicy

__all__ = ["MLP", "CategoricalPolicy", "Conv4", "GaussianPolicy", "Model", "Module"]
