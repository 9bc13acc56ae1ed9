"""A worker counts by how much its update points where the others' point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hpc_dmaml.weight_generators.generator import WeightGenerator


@dataclass(frozen=True)
class GradientAgreement(WeightGenerator):
    """λ_w ∝ max(0, mean cosine between w's update and the other workers'); equal where no update agrees with any.

    After Eshratifar, Eigen & Pedram, "Gradient agreement as an optimization objective for meta-learning" (2018), whose
    weights are inner products, and can be negative: cosines keep a worker with a huge update from deciding alone, and a
    worker against the others gets 0.
    """

    needs_gram: ClassVar[bool] = True

    def weights(self, losses: np.ndarray, memory: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
        assert gram is not None
        norm = np.sqrt(gram.diagonal())
        norm = np.where(norm > 0, norm, np.inf)
        cosines = gram / np.outer(norm, norm)
        np.fill_diagonal(cosines, 0)
        agreement = np.maximum(cosines.sum(axis=1), 0)
        return agreement if agreement.any() else np.ones_like(losses)
