"""What a model is to the toolkit: a configuration that builds an ordinary module, written for one task."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


class Model(ABC):
    """Base of the configurable models: a frozen dataclass whose fields are the architecture."""

    @abstractmethod
    def build(self, sample_shape: tuple[int, ...], outputs: int) -> "nn.Module":
        """A module from (n, *sample_shape) to (n, outputs), freshly initialised from torch's global generator.

        A chain of the layers in `hpc_dmaml.engine.layers.LAYERS` takes the fast path; any other module is run through
        autograd. Raises ValueError where the shapes do not fit the model.
        """
