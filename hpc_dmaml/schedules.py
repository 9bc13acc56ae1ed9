"""Learning-rate schedules: a factor of `optimizer.lr` and `local_lr` for each run.

The factor depends on the number of the run only, so that a resumed job needs no state.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from hpc_dmaml.importing import described

SOME = 1000
"""Number of runs in which a schedule is tried before the job."""
LARGEST = 10**6
"""Largest factor: a larger one is a slip, and would end in a step that is not finite."""


@dataclass(frozen=True)
class Schedule(ABC):
    """Base class of schedules: a frozen dataclass with one method, `shape`, whose factor the warm-up multiplies."""

    warm_up: int = 0
    """Number of runs over which the rates increase linearly to their full value."""

    def __post_init__(self) -> None:
        if self.warm_up < 0:
            raise ValueError(f"schedule.warm_up must be 0 or more, not {self.warm_up}")

    @abstractmethod
    def shape(self, run: int) -> float:
        """The factor in a run, counted from 0, without the warm-up."""

    def factor(self, run: int) -> float:
        """The factor of the rates in a run, counted from 0, with the warm-up. Raises FloatingPointError unless it is a
        number from 0 to `LARGEST`."""
        try:
            factor = self.shape(run) * min(1.0, (run + 1) / max(1, self.warm_up))
        except Exception as error:  # a user's own schedule may fail in any way
            raise FloatingPointError(f"{self} gives no factor for run {run}: {described(error)}") from error
        if not 0 <= factor <= LARGEST:
            raise FloatingPointError(f"{self} gives {factor} for run {run}; it must be from 0 to {LARGEST:,}")
        return factor

    def over(self, runs: int) -> Schedule:
        """The schedule with `runs` as its length, if it has none of its own."""
        return self


def check(schedule: Schedule, runs: int) -> None:
    """Raise ValueError unless the factors of the first `SOME` runs and of the last are numbers from 0 to `LARGEST`."""
    for run in (*range(min(SOME, runs)), runs - 1):
        try:
            schedule.factor(run)
        except FloatingPointError as error:
            raise ValueError(f"schedule: {error}") from error


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rates in every run."""

    def shape(self, run: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine wave from 1 to `final` (Loshchilov & Hutter, 2017, without restarts)."""

    runs: int | None = None
    """Number of runs until it ends. Default: the runs that the job is started with; a job resumed for more runs stays
    at `final`."""
    final: float = 0.0
    """Factor at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.runs is not None and self.runs < 1) or not 0 <= self.final <= 1:
            raise ValueError(
                f"schedule.runs must be 1 or more and schedule.final from 0 to 1, not {self.runs} and {self.final}"
            )

    def shape(self, run: int) -> float:
        assert self.runs is not None  # set by `over`
        done = min(1.0, run / self.runs)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2

    def over(self, runs: int) -> Cosine:
        return self if self.runs is not None else replace(self, runs=runs)


@dataclass(frozen=True)
class Steps(Schedule):
    """The rates are multiplied by `gamma` after every `every` runs."""

    every: int = 1000
    """Number of runs between two steps."""
    gamma: float = 0.1
    """Factor of each step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1 or not (math.isfinite(self.gamma) and self.gamma > 0):
            raise ValueError(
                f"schedule.every must be 1 or more and schedule.gamma positive, not {self.every} and {self.gamma}"
            )

    def shape(self, run: int) -> float:
        return self.gamma ** (run // self.every)
