"""What several tests share: small jobs, and task families and models with a fault."""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from torch import nn

from hpc_dmaml import results
from hpc_dmaml.algorithms import MAML
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import RunConfig, Validation
from hpc_dmaml.models import MLP
from hpc_dmaml.optimizers import SGD
from hpc_dmaml.run import run_job
from hpc_dmaml.tasks import Sinusoid

DATA = Path(os.environ.get("HPC_DMAML_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""Real data sets; tests that want them are skipped where they are not."""
ATTRIBUTES: dict[str, Any] = {
    "status": "running", "config": "runs: 3\n", "seed": 0, "versions": "", "git_commit": "", "start": "", "end": "",
    "written": "", "sample_shape": [1], "outputs": 1, "loss": "squared_error", "metric": "", "metric_unit": "",
    "metric_direction": "", "restarts": 0, "best_run": -1, "best_score": float("nan"),
}  # fmt: skip
"""Of a result file that no job wrote."""


def docstring_command(example: ModuleType, word: str) -> list[str]:
    """The command of an example's docstring that starts with a word."""
    lines = str(example.__doc__).replace("\\\n", " ").splitlines()
    return shlex.split(next(line for line in lines if line.split()[:1] == [word]))


def small_config(**changes: Any) -> RunConfig:
    """A job of a fraction of a second: sine waves, float64, 3 runs of 5 tasks."""
    config = RunConfig(
        runs=3,
        tasks=5,
        task=Sinusoid(shots=4, queries=3),
        model=MLP(hidden=(6,)),
        optimizer=SGD(lr=0.02),
        algorithm=MAML(inner_lr=0.05),
        validation=Validation(every=2, tasks=5, steps=2),
        dtype="float64",
        threads=1,
    )
    return replace(config, **changes)


def run(config: RunConfig, folder: Path, comm: Communicator | None = None, name: str = "job.h5") -> results.Results:
    """Run a job and read its file. Under MPI every rank reads it."""
    comm = comm or Communicator()
    code = run_job(replace(config, output=str(folder / name)), comm)
    comm.barrier()
    assert code == 0
    return results.read(folder / name, verify=True)


def timeless(source: results.Results) -> dict[str, np.ndarray]:
    """Everything in a file but times and hosts."""
    return {name: a for name, a in source.arrays.items() if not name.endswith("_s") and name != "ranks/host"}


def differing(one: results.Results, other: results.Results) -> set[str]:
    """The names of what differs in two files, to the last bit, times and hosts apart."""
    left, right = timeless(one), timeless(other)
    same = {n for n in left.keys() & right.keys() if left[n].dtype == right[n].dtype and equal(left[n], right[n])}
    return (left.keys() | right.keys()) - same


def equal(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


@dataclass(frozen=True)
class Poisoned(Sinusoid):
    """Sine waves; in some batches, those whose first draw is below `share`, the first task is not a number."""

    share: float = 0.3
    block_runs: ClassVar[int] = 1

    def sample(self, split, rng, tasks, part=slice(None), queries=None):
        poisoned = split == "train" and rng.random() < self.share
        batch = super().sample(split, rng, tasks, slice(None), queries)
        if poisoned:
            batch.query_set.y[0] = np.nan
        return batch.part(part)


@dataclass(frozen=True)
class Signalling(Sinusoid):
    """Sine waves; once, in the n-th batch of training, this process gets a signal: `sends` = (number, n)."""

    sends: ClassVar[tuple[int, int] | None] = None
    block_runs: ClassVar[int] = 1

    def sample(self, split, rng, tasks, part=slice(None), queries=None):
        kind = type(self)
        if kind.sends is not None and split == "train" and tasks > 1:
            number, left = kind.sends
            kind.sends = (number, left - 1) if left > 1 else None
            if left == 1:
                os.kill(os.getpid(), number)
        return super().sample(split, rng, tasks, part, queries)


@dataclass(frozen=True)
class Slow(Sinusoid):
    """Sine waves that take their time, and say so."""

    prepare_s: float = 0.0
    run_s: float = 0.0
    block_runs: ClassVar[int] = 1

    def prepare(self) -> None:
        print("preparing", flush=True)
        time.sleep(self.prepare_s)

    def sample(self, split, rng, tasks, part=slice(None), queries=None):
        if split == "train" and tasks > 1 and self.run_s:
            print("running", flush=True)
            time.sleep(self.run_s)
        return super().sample(split, rng, tasks, part, queries)


class Residual(nn.Module):
    """A module of a user's own: no chain of layers."""

    def __init__(self, sample_shape: tuple[int, ...], outputs: int, width: int = 5) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(sample_shape[0], width), nn.Linear(width, outputs)

    def forward(self, x):
        hidden = self.enter(x).tanh()
        return self.leave(hidden + hidden.square())


class FailingOnRankOne(nn.Module):
    """Breaks down in the middle of the job, on one rank."""

    def __init__(self, sample_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(sample_shape[0], outputs), 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 20 and os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK")) == "1":
            raise RuntimeError("the model broke down on purpose")
        return self.layer(x)
