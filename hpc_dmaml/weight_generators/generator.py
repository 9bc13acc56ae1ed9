"""What a weight generator is: it turns the workers' losses into how much each worker counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np


class WeightGenerator(ABC):
    """Base of the generators: a frozen dataclass with one method."""

    needs_gram: ClassVar[bool] = False
    """Does it look at the workers' updates? Their inner products are then computed, which brings all of them to rank 0."""

    @property
    def memory_length(self) -> int:
        """How many runs, this one included, it looks back."""
        return 1

    @abstractmethod
    def weights(self, losses: np.ndarray, memory: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
        """λ (W,) up to a positive factor, each ≥ 0 and not all 0.

        Args:
            losses: (W,) float64, each worker's mean query loss after adaptation in this run; finite.
            memory: (≤ memory_length, W) float64, the same of the last runs, this one last; NaN where it was not finite.
            gram: (W, W) float64, the inner products of the workers' updates, if `needs_gram`.
        """


def worker_weights(
    generator: WeightGenerator, memory: np.ndarray, finite: np.ndarray, gram: np.ndarray | None = None
) -> np.ndarray:
    """The generator's λ (W,) as a distribution over the workers whose loss and update are finite; 0 for the others.

    Args:
        memory: (≤ memory_length, W) losses of the last runs, this one last.
        finite: (W,) bool.
        gram: (W, W), if the generator needs it.

    Raises FloatingPointError if no worker is finite.
    """
    check_any_finite(finite)
    known = memory[:, finite]
    raw = generator.weights(known[-1], known, None if gram is None else gram[np.ix_(finite, finite)])
    weights = np.zeros(len(finite))
    weights[finite] = raw / raw.sum()
    return weights


def check_any_finite(finite: np.ndarray) -> None:
    """Raise FloatingPointError if no worker is finite."""
    if not finite.any():
        raise FloatingPointError(
            "the loss or the update of every worker is not finite: the training has diverged. "
            "Lower maml.inner_lr or optimizer.lr, or set maml.clip"
        )


def inverse(losses: np.ndarray) -> np.ndarray:
    """∝ 1/loss; where a loss is not positive that means nothing, and it is the softmax of the standardised −loss."""
    if (losses > 0).all():
        return losses.min() / losses  # scaled, so that tiny losses do not overflow
    spread = losses.std()
    if spread == 0:
        return np.ones_like(losses)
    scores = -(losses - losses.mean()) / spread
    return np.exp(scores - scores.max())
