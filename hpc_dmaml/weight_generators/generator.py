"""The interface of a weight generator, which computes the workers' weights from their losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from hpc_dmaml.importing import described
from hpc_dmaml.requirements import is_whole


class WeightGenerator(ABC):
    """Base class of weight generators: a frozen dataclass with one method."""

    needs_gram: ClassVar[bool] = False
    """Whether it needs the inner products of the workers' updates; all updates are then sent to rank 0."""

    @property
    def memory_length(self) -> int:
        """Number of runs whose losses it uses, the current one included."""
        return 1

    @abstractmethod
    def weights(self, losses: np.ndarray, memory: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
        """The weights λ (W,) up to a positive factor, each ≥ 0 and not all 0.

        Args:
            losses: (W,) float64, each worker's mean query loss after adaptation in this run; finite.
            memory: (≤ memory_length, W) float64, the losses of the last runs, this one last; NaN where not finite.
            gram: (W, W) float64, the inner products of the workers' updates, if `needs_gram`.
        """


def worker_weights(
    generator: WeightGenerator, memory: np.ndarray, finite: np.ndarray, gram: np.ndarray | None = None
) -> np.ndarray:
    """The generator's weights λ (W,), normalised to sum 1; 0 for workers whose loss or update is not finite.

    Args:
        memory: (≤ memory_length, W) losses of the last runs, this one last.
        finite: (W,) bool.
        gram: (W, W), if the generator needs it.

    Raises FloatingPointError if no worker is finite, or if the generator fails or its result is not valid weights.
    """
    check_any_finite(finite)
    known, name = memory[:, finite], type(generator).__name__
    try:
        raw = generator.weights(known[-1], known, None if gram is None else gram[np.ix_(finite, finite)])
    except Exception as error:  # a user's own generator may fail in any way
        raise FloatingPointError(f"{name} failed on the losses {known[-1].tolist()}: {described(error)}") from error
    weights = np.zeros(len(finite))
    weights[finite] = _distribution(raw, known.shape[1], name)
    return weights


def check(generator: WeightGenerator, workers: int) -> None:
    """Raise ValueError unless the generator gives valid weights for test losses and updates of that many workers, twice
    the same: every rank asks it for itself."""
    length = generator.memory_length
    if not is_whole(length, least=1):
        name = f"{type(generator).__name__}.memory_length"
        raise ValueError(f"weight_generator: {name} must be a whole number, 1 or more, not {length!r}")
    losses = np.arange(1.0, workers + 1)[None]
    gram = np.diag(losses[0]) if generator.needs_gram else None
    try:
        one, other = (worker_weights(generator, losses, np.full(workers, True), gram) for _ in range(2))
    except Exception as error:  # a user's own generator may fail in any way
        raise ValueError(f"weight_generator: tried on losses {losses[0].tolist()}: {error}") from error
    if not np.array_equal(one, other):
        raise ValueError(
            f"weight_generator: {type(generator).__name__} gives other weights for the same losses the next time: take out "
            "what is random, or kept from call to call"
        )


def _distribution(raw: object, workers: int, name: str) -> np.ndarray:
    """A generator's result λ (workers,) divided by its sum. Raises FloatingPointError if it is not valid weights."""
    try:
        weights = np.asarray(raw, np.float64)
    except (TypeError, ValueError):
        weights = np.empty(())
    wrong = None
    if weights.shape != (workers,):
        wrong = f"one number for each of the {workers} workers whose loss is finite"
    elif not np.isfinite(weights).all() or (weights < 0).any():
        wrong = "finite and 0 or more"
    elif not weights.any():
        wrong = "more than 0 for at least one worker"
    if wrong:
        came = " ".join(repr(raw).split())
        raise FloatingPointError(f"{name} gave the weights {came}; they must be {wrong}")
    weights = weights / weights.max()  # the sum can then neither overflow nor underflow
    return weights / weights.sum()


def check_any_finite(finite: np.ndarray) -> None:
    """Raise FloatingPointError if no worker is finite."""
    if not finite.any():
        raise FloatingPointError(
            "the loss or the update of every worker is not finite: the training has diverged. "
            "Lower algorithm.inner_lr or optimizer.lr, or set clip"
        )


def inverse(losses: np.ndarray) -> np.ndarray:
    """Weights ∝ 1/loss; if a loss is not positive, the softmax of the standardised −loss instead."""
    if (losses > 0).all():
        return losses.min() / losses  # scaled, so that tiny losses do not overflow
    spread = losses.std()
    if spread == 0:
        return np.ones_like(losses)
    scores = -(losses - losses.mean()) / spread
    return np.exp(scores - scores.max())
