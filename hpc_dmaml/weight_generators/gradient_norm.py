"""Smaller weights for workers whose update is unusually long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hpc_dmaml.weight_generators.generator import WeightGenerator


@dataclass(frozen=True)
class GradientNorm(WeightGenerator):
    """λ_w ∝ min(1, median ‖g‖ / ‖g_w‖): the mean of the updates, the longer half of which is cut to the median length.

    Norm clipping with the workers' median as the bound, so that no worker dominates. The updates of workers on hard
    tasks keep their direction; those of a faulty worker, which grow while the others learn, are limited.
    """

    needs_gram: ClassVar[bool] = True

    def weights(self, losses: np.ndarray, memory: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
        assert gram is not None
        norm = np.sqrt(gram.diagonal())
        bound = np.median(norm)
        if bound == 0:  # most updates are 0: the others must not get all the weight
            return np.ones_like(norm)
        return bound / np.maximum(norm, bound)
