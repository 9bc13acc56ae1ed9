"""Users' own data of any shape: arrays in one HDF5 or .npz file, for classification or regression."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from hpc_dmaml.launcher import launched_rank
from hpc_dmaml.losses import Loss, SquaredError
from hpc_dmaml.requirements import count
from hpc_dmaml.tasks.array_data import ArrayData, read_data
from hpc_dmaml.tasks.class_split import random_split
from hpc_dmaml.tasks.family import Samples, Split, TaskBatch
from hpc_dmaml.tasks.image_classes import Classes, FewShot, FewShotSampler, distinct

MUCH = 2**28
"""Size in bytes of the data that each rank reads into memory above which a message reports it."""


@dataclass(frozen=True)
class Arrays(FewShot):
    """Arrays of your own in one HDF5 or .npz file: classification, or regression with separate samples per task."""

    path: str = "data/arrays.h5"
    """The file; ~ and $VARIABLES are replaced. Classification: arrays x (n, *sample shape) and class, or label, (n,),
    integers or text. Regression: x (tasks, n, *sample shape) and y (tasks, n, outputs), from which each task draws
    shots + queries samples (ways has no effect); or, for tasks of different size, x (n, *sample shape), y (n, outputs)
    and task (n,), the task of each sample. Classes or tasks for validation and test are not trained on: an array split
    of train, validation or test, for each sample or for each class or task in sorted order, assigns them; without it
    they are split at random. Bytes (uint8) of x become numbers in [0, 1], other integers stay integers. Arrays that are
    neither compressed nor chunked are memory-mapped."""
    fractions: tuple[float, float, float] = (0.64, 0.16, 0.2)
    """Fractions of the classes or tasks for training, validation and test, for a random split."""
    split_seed: int = 0
    """Seed of the random split."""

    def prepare(self) -> str:
        with self._naming() as path:
            data = read_data(path, verify=True)
        self._sampler(data)  # checks the fields before all data is read
        size = sum(array.nbytes for array in data.arrays.values() if not isinstance(array, np.memmap))
        if size > MUCH and launched_rank(os.environ) == 0:
            text = f"every rank reads {size / 2**30:.1f} GiB; arrays that are neither chunked nor compressed are mapped"
            print(f"{path}: {text}", file=sys.stderr, flush=True)
        with self._naming():
            return data.digest()

    def load(self) -> FewShotSampler | RegressionSampler:
        with self._naming() as path:
            data = read_data(path)
        return self._sampler(data)

    @contextmanager
    def _naming(self) -> Iterator[Path]:
        """Yield the path of the file; prefix it to a ValueError raised in the block."""
        path = self._path("path")
        try:
            yield path
        except ValueError as error:
            raise ValueError(f"task.path: {path}: {error}") from error

    def _sampler(self, data: ArrayData) -> FewShotSampler | RegressionSampler:
        path, names, at_random = self._path("path"), data.names, data.split is None
        order, count = data.group.argsort(kind="stable"), np.bincount(data.group)
        first = count.cumsum() - count
        number = {name: i for i, name in enumerate(names)}
        members = random_split(names, self.fractions, self.split_seed) if at_random else data.given_split(path)
        numbers = {split: np.array([number[name] for name in those], np.int64) for split, those in members.items()}
        splits = {
            split: Classes.of(first[those], count[those], names=members[split]) for split, those in numbers.items()
        }
        if data.y is None:
            return FewShotSampler(data.x, splits, self, "", at_random, order, f"task.path: {path}: ")
        return RegressionSampler(data.x, data.y, splits, self, order, f"task.path: {path}: ")


class RegressionSampler:
    """Draws regression tasks with separate samples for each: `shots` + `queries` distinct samples of a task."""

    loss: ClassVar[Loss] = SquaredError()
    block_runs: ClassVar[int] = 1

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        splits: dict[Split, Classes],
        family: FewShot,
        order: np.ndarray,
        source: str = "",
    ) -> None:
        """`order`: the indices of the samples x (n, *sample shape) and y (n, outputs), sorted by task.

        `source`: prefix of error messages. Raises ValueError for fields out of range.
        """
        self.x, self.y, self.splits, self.family, self.order, self.source = x, y, splits, family, order, source
        self.sample_shape, self.outputs = tuple(x.shape[1:]), y.shape[1]
        for name in ("shots", "queries"):
            count(f"task.{name}", getattr(family, name))

    def sample(
        self, split: Split, rng: np.random.Generator, tasks: int, part: slice = slice(None), queries: int | None = None
    ) -> TaskBatch:
        """Samples x (B, shots | queries, *sample shape) and y (B, shots | queries, outputs).

        Raises ValueError if the split has no tasks, or one with too few samples.
        """
        shots, queries = self.family.shots, queries or self.family.queries
        own = self.splits.get(split)
        if not own:
            raise ValueError(f"{self.source}the {split} split has no tasks")
        smallest = int(own.count.min())
        if shots + queries > smallest:
            raise ValueError(
                f"{self.source}task.shots + task.queries is {shots} + {queries}, but the smallest task of the {split} split "
                f"has only {smallest} samples"
            )
        chosen = rng.integers(len(own), size=tasks)
        places = distinct(rng, own.count[chosen], shots + queries)
        numbers = self.order[own.first[chosen[part], None] + places[part]]
        x, y = self.x[numbers], self.y[numbers]
        return TaskBatch(Samples(x[:, :shots], y[:, :shots]), Samples(x[:, shots:], y[:, shots:]))
