"""A worker whose update is unusually long counts less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hpc_dmaml.weight_generators.generator import WeightGenerator


@dataclass(frozen=True)
class GradientNorm(WeightGenerator):
    """λ_w ∝ min(1, median ‖g‖ / ‖g_w‖): the mean of the updates, the longer half of them cut to the median length.

    Norm clipping with a bound that the workers set themselves, so that no worker decides alone. Right workers on hard
    tasks keep their direction; one that learns the wrong thing pulls ever harder as the others learn, and is held back.
    """

    needs_gram: ClassVar[bool] = True

    def weights(self, losses: np.ndarray, memory: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
        assert gram is not None
        norm = np.sqrt(gram.diagonal())
        bound = np.median(norm)
        if bound == 0:  # most updates are 0: the others are not to lead alone
            return np.ones_like(norm)
        return bound / np.maximum(norm, bound)
