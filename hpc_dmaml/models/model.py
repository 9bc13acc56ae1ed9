"""The interface of a model: a configuration that builds an ordinary module, written for one task."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


class Model(ABC):
    """Base class of the configurable models: a frozen dataclass whose fields define the architecture."""

    @abstractmethod
    def build(self, sample_shape: tuple[int, ...], outputs: int) -> "nn.Module":
        """Build a module from (n, *sample_shape) to (n, outputs), initialised from torch's global generator.

        A chain of the layers in `hpc_dmaml.engine.layers.LAYERS` takes the fast path; any other module uses autograd.
        Raises ValueError if the shapes do not fit the model.
        """
