"""Harmonic regression: a task is a sum of sine waves with its own inputs (Lacoste et al., 2018, arXiv 1806.07528)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hpc_dmaml.losses import SquaredError
from hpc_dmaml.requirements import count, not_negative
from hpc_dmaml.tasks.family import Samples, Split, TaskBatch, TaskFamily


@dataclass(frozen=True)
class Harmonic(TaskFamily):
    """y = Σ aₖ sin(k ω x + bₖ) + noise, k = 1 … waves; x and aₖ are normal; each task has its ω, aₖ, bₖ and mean of x.

    The defaults are those of the literature: two waves, a ~ N(0, 1), x ~ N(μ, 1).
    """

    shots: int = 10
    """Number of support points."""
    queries: int = 10
    """Number of query points."""
    waves: int = 2
    """Number of sine waves; the k-th has k times the frequency of the first."""
    frequency: tuple[float, float] = (5.0, 7.0)
    """Range of the frequency ω, in radians."""
    phase: tuple[float, float] = (0.0, 2 * float(np.pi))
    """Range of the phases b, in radians."""
    amplitude: float = 1.0
    """Standard deviation of the amplitudes a, whose mean is 0."""
    centre: tuple[float, float] = (-4.0, 4.0)
    """Range of μ, the mean of a task's x."""
    spread: float = 1.0
    """Standard deviation of a task's x."""
    noise: float = 0.0
    """Standard deviation of the noise on y, in support and query points."""

    sample_shape = (1,)
    outputs = 1
    loss = SquaredError()
    block_runs: ClassVar[int] = 16

    def load(self) -> Harmonic:
        for name in ("shots", "queries", "waves"):
            count(f"task.{name}", getattr(self, name))
        for name in ("amplitude", "spread", "noise"):
            not_negative(f"task.{name}", getattr(self, name))
        for name in ("frequency", "phase", "centre"):
            low, high = getattr(self, name)
            if not (low <= high and np.isfinite(high - low)):
                raise ValueError(f"task.{name} must be a range, the smaller number first, not {(low, high)}")
        return self

    def sample(
        self, split: Split, rng: np.random.Generator, tasks: int, part: slice = slice(None), queries: int | None = None
    ) -> TaskBatch:
        """Points x and values y, both (B, shots | queries, 1). The three splits are the same distribution."""
        shots, waves = self.shots, np.arange(1, self.waves + 1)
        points = shots + (queries or self.queries)
        frequency, centre = (rng.uniform(*r, (tasks, 1, 1))[part] for r in (self.frequency, self.centre))
        phase = rng.uniform(*self.phase, (tasks, 1, self.waves))[part]
        amplitude = self.amplitude * rng.standard_normal((tasks, 1, self.waves))[part]
        x = centre + self.spread * rng.standard_normal((tasks, points, 1))[part]
        y = (amplitude * np.sin(frequency * waves * x + phase)).sum(-1, keepdims=True)
        if self.noise:
            y += self.noise * rng.standard_normal((tasks, points, 1))[part]
        return TaskBatch(Samples(x[:, :shots], y[:, :shots]), Samples(x[:, shots:], y[:, shots:]))
