"""Robust to bad workers: the combined update is the geometric median of the workers'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hpc_dmaml.weight_generators.generator import WeightGenerator


@dataclass(frozen=True)
class GeometricMedian(WeightGenerator):
    """λ such that Σ λ_w g_w minimises Σ_w ‖g − g_w‖, by Weiszfeld's iteration λ_w ∝ 1/‖g − g_w‖.

    The distances come from the Gram matrix alone: with g = Σ λ_w g_w, ‖g − g_w‖² = λᵀGλ − 2 (Gλ)_w + G_ww. Up to half
    of the workers can send anything finite without moving it far (Pillutla, Kakade & Harchaoui, 2022: the smoothed
    iteration).
    """

    needs_gram: ClassVar[bool] = True

    iterations: int = 100
    """At most so many steps of Weiszfeld's iteration."""
    smoothing: float = 1e-6
    """Least distance, relative to the largest distance from the mean: keeps an update on the median from dividing by 0."""

    def __post_init__(self) -> None:
        if self.iterations < 1 or not self.smoothing > 0:
            raise ValueError(
                "weight_generator.iterations and weight_generator.smoothing must be positive, "
                f"not {self.iterations} and {self.smoothing}"
            )

    def weights(self, losses: np.ndarray, memory: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
        assert gram is not None
        weights = np.full(len(losses), 1 / len(losses))
        least = self.smoothing * self._distances(weights, gram).max()
        if least == 0:  # all updates are the same
            return weights
        for _ in range(self.iterations):
            previous = weights
            weights = 1 / np.maximum(self._distances(weights, gram), least)
            weights /= weights.sum()
            if np.abs(weights - previous).max() < 1e-10:
                break
        return weights

    @staticmethod
    def _distances(weights: np.ndarray, gram: np.ndarray) -> np.ndarray:
        across = gram @ weights
        return np.sqrt(np.maximum(weights @ across - 2 * across + gram.diagonal(), 0))
