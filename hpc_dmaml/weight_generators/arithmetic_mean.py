"""Equal weights for all workers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_dmaml.weight_generators.generator import WeightGenerator


@dataclass(frozen=True)
class ArithmeticMean(WeightGenerator):
    """λ = 1/W: the mean of the workers' updates (the thesis's baseline)."""

    def weights(self, losses: np.ndarray, memory: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
        return np.ones_like(losses)
