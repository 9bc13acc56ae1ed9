"""The state of a job's loop: all that it needs to continue. The recorder writes it, and a resumed job reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from hpc_dmaml.losses import Metric
from hpc_dmaml.meta_model import MetaModel
from hpc_dmaml.own_optimizers import GROUP, OwnOptimizers
from hpc_dmaml.results import NEXT_BEST, Results


class Validation(NamedTuple):
    """Query loss and metric of held-out tasks, before adaptation and after each step; both (steps + 1, tasks)."""

    loss: np.ndarray
    metric: np.ndarray
    """NaN where there is none."""


class Best(NamedTuple):
    """A parameter vector that is among the best so far."""

    score: float
    """Mean metric, or loss if there is no metric, after the last step; negated where lower is better."""
    parameters: np.ndarray
    """(P,)"""
    run: int


@dataclass
class State:
    model: MetaModel
    """φ and its optimizer."""
    own: OwnOptimizers
    """The workers' own optimizers, if they have any."""
    memory: np.ndarray
    """(≤ memory_length, W) losses of the last runs, for the weight generator."""
    run: int = 0
    """Number of the next run, and so how many were made."""
    best: list[Best] = field(default_factory=list)
    """The best parameters, best first; of equal ones the earlier."""
    keep: int = 1
    """Most entries in `best`; 0 on ranks that do not write the file."""
    validation: Validation | None = None
    """The last validation."""
    trajectories: dict[str, np.ndarray] = field(default_factory=dict)
    """Some of its trajectories: arrays of the file, by name."""

    def judge(self, run: int, validation: Validation, metric: Metric | None) -> None:
        """Store the validation of a run, and keep the parameters if they are among the best."""
        self.validation = validation
        better_high = metric is not None and metric.higher_is_better
        score = float((validation.loss if metric is None else validation.metric)[-1].mean()) * (
            1 if better_high else -1
        )
        # A task that diverged makes it NaN.
        if np.isfinite(score) and (len(self.best) < self.keep or any(score > best.score for best in self.best)):
            found = Best(score, self.model.theta.cpu().numpy().copy(), run)
            self.best = sorted([*self.best, found], key=lambda best: -best.score)[: self.keep]

    def resume(self, previous: Results) -> None:
        """Restore all but φ from the file of the job that is resumed.

        Raises ValueError where it is another job's.
        """
        runs = previous["runs/run"]
        self.memory, self.run = previous["checkpoint/memory"], int(runs[-1]) + 1 if len(runs) else 0
        self.model.load_optimizer_state(previous.group("checkpoint/optimizer/"), self.run > 0)
        self.own.restore(previous.group(GROUP))
        self.trajectories = {name: a for name, a in previous.arrays.items() if name.startswith("trajectories/")}
        if self.keep:
            self.best = stored_best(previous)


def stored_best(source: Results) -> list[Best]:
    """The best parameters that a file holds, the best first; empty without a validation."""
    score, run = float(source.attribute("best_score")), int(source.attribute("best_run"))
    if not np.isfinite(score):
        return []
    best = [Best(score, source["meta_model/best_parameters"], run)]
    if source.group(NEXT_BEST):
        arrays = (source[f"{NEXT_BEST}{name}"] for name in Best._fields)
        best += [Best(float(score), parameters, int(run)) for score, parameters, run in zip(*arrays, strict=True)]
    return best


def next_best(best: list[Best]) -> dict[str, np.ndarray]:
    """All but the first as arrays of a file, which stores the first elsewhere."""
    if not best[1:]:
        return {}
    return {f"{NEXT_BEST}{name}": np.stack([getattr(each, name) for each in best[1:]]) for name in Best._fields}
