"""Larger weights for workers with a smaller mean loss over the last runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_dmaml.requirements import count
from hpc_dmaml.weight_generators.generator import WeightGenerator, inverse


@dataclass(frozen=True)
class LossMovingAverage(WeightGenerator):
    """λ ∝ 1/(mean of a worker's last losses, the current one included). (The thesis's name, our definition.)"""

    window: int = 5
    """Number of runs in the mean."""

    def __post_init__(self) -> None:
        count("weight_generator.window", self.window)

    @property
    def memory_length(self) -> int:
        return self.window

    def weights(self, losses: np.ndarray, memory: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
        return inverse(np.nanmean(memory, axis=0))
