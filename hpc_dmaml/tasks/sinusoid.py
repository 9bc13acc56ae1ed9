"""Sine regression: each task is y = A sin(x − φ), given by a few points (Finn et al., 2017, section 5.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from hpc_dmaml.losses import SquaredError
from hpc_dmaml.requirements import count
from hpc_dmaml.tasks.family import Samples, Split, TaskBatch, TaskFamily


@dataclass(frozen=True)
class Sinusoid(TaskFamily):
    """Sine waves of random amplitude and phase, x in [-5, 5]; the defaults are Finn et al.'s."""

    shots: int = 10
    """Number of support points."""
    queries: int = 10
    """Number of query points."""
    amplitude: tuple[float, float] = (0.1, 5.0)
    """Range of the amplitude A."""
    phase: tuple[float, float] = (0.0, float(np.pi))
    """Range of the phase φ, in radians."""

    sample_shape = (1,)
    outputs = 1
    loss = SquaredError()
    block_runs: ClassVar[int] = 16

    def load(self) -> Sinusoid:
        for name in ("shots", "queries"):
            count(f"task.{name}", getattr(self, name))
        for name, (low, high) in (("amplitude", self.amplitude), ("phase", self.phase)):
            if not (low <= high and np.isfinite(high - low)):
                raise ValueError(f"task.{name} must be a range, the smaller number first, not {(low, high)}")
        return self

    def share(self, worker: int, workers: int) -> Sinusoid:
        """The family with one worker's share of the amplitudes: one of `workers` equal parts of their range."""
        low, high = np.linspace(*self.amplitude, workers + 1)[worker : worker + 2].tolist()
        return replace(self, amplitude=(low, high))

    def sample(
        self, split: Split, rng: np.random.Generator, tasks: int, part: slice = slice(None), queries: int | None = None
    ) -> TaskBatch:
        """Points x and values y, both (B, shots | queries, 1). The three splits are the same distribution."""
        points = self.shots + (queries or self.queries)
        amplitude, phase = (rng.uniform(*r, (tasks, 1, 1))[part] for r in (self.amplitude, self.phase))
        x = rng.uniform(-5.0, 5.0, (tasks, points, 1))[part]
        y = amplitude * np.sin(x - phase)
        return TaskBatch(
            Samples(x[:, : self.shots], y[:, : self.shots]), Samples(x[:, self.shots :], y[:, self.shots :])
        )
