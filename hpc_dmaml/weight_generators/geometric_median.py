"""A robust combination: the geometric median of the workers' updates."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hpc_dmaml.requirements import count, positive
from hpc_dmaml.weight_generators.generator import WeightGenerator

CONVERGED = 1e-3
"""Largest last step, relative to the distance between the updates, that causes no warning."""


@dataclass(frozen=True)
class GeometricMedian(WeightGenerator):
    """λ such that Σ λ_w g_w minimises Σ_w ‖g − g_w‖, by Weiszfeld's iteration λ_w ∝ 1/‖g − g_w‖.

    The distances follow from the Gram matrix G: with g = Σ λ_w g_w, ‖g − g_w‖² = λᵀGλ − 2 (Gλ)_w + G_ww. Up to half
    of the workers can send arbitrary finite updates without moving g far (Pillutla, Kakade & Harchaoui, 2022, with the
    smoothed iteration).
    """

    needs_gram: ClassVar[bool] = True

    iterations: int = 100
    """Largest number of steps of Weiszfeld's iteration."""
    smoothing: float = 1e-6
    """Least distance in the iteration, relative to the median distance from the most central update: avoids division
    by 0 if an update equals the geometric median."""

    def __post_init__(self) -> None:
        count("weight_generator.iterations", self.iterations)
        positive("weight_generator.smoothing", self.smoothing)

    def weights(self, losses: np.ndarray, memory: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
        assert gram is not None
        squares = gram.diagonal()
        apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * gram, 0))
        from_centre = apart[apart.sum(1).argmin()]  # of the update with the least sum of distances: never an outlier
        spread = np.median(from_centre)
        # Start from the nearer half of the updates, which outliers of any length do not influence; from both of two.
        current = (from_centre <= np.sort(from_centre)[len(gram) // 2]).astype(float)
        current /= current.sum()
        if spread == 0:  # more than half of the updates are the same
            return current
        for _ in range(self.iterations):
            previous = current
            current = 1 / np.maximum(self._distances(current, gram), self.smoothing * spread)
            current /= current.sum()
            change = current - previous
            moved = np.sqrt(max(change @ gram @ change, 0)) / spread
            if moved < 1e-8:
                return current
        if moved > CONVERGED:
            warnings.warn(
                f"GeometricMedian has not converged after {self.iterations} iterations: its last step was {moved:.1e} of "
                "the distance between the updates; raise weight_generator.iterations",
                RuntimeWarning,
                stacklevel=2,
            )
        return current

    @staticmethod
    def _distances(weights: np.ndarray, gram: np.ndarray) -> np.ndarray:
        across = gram @ weights
        return np.sqrt(np.maximum(weights @ across - 2 * across + gram.diagonal(), 0))
