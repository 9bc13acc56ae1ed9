"""Larger weights for workers with a smaller loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_dmaml.weight_generators.generator import WeightGenerator, inverse


@dataclass(frozen=True)
class LossWeighted(WeightGenerator):
    """λ ∝ 1/loss. (The thesis's name, our definition.)"""

    def weights(self, losses: np.ndarray, memory: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
        return inverse(losses)
