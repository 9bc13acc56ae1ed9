"""Equal weights for the half of the workers with the smaller losses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_dmaml.weight_generators.generator import WeightGenerator


@dataclass(frozen=True)
class LossMedian(WeightGenerator):
    """Equal λ for workers whose loss is at most the median, 0 for the others. (The thesis's name, our definition.)"""

    def weights(self, losses: np.ndarray, memory: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
        return (losses <= np.median(losses)).astype(float)
