"""N-way K-shot classification of images: one sampler for every image family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hpc_dmaml.tasks.family import Samples, Split, TaskBatch, TaskFamily


@dataclass(frozen=True)
class FewShotImages(TaskFamily):
    """The fields that all image families share."""

    ways: int = 5
    """Classes in a task (N)."""
    shots: int = 1
    """Support images of each class (K)."""
    queries: int = 1
    """Query images of each class."""


@dataclass(frozen=True)
class Classes:
    """Classes as consecutive images: class c is `count[c]` images from `first[c]` on, turned by `turns[c]` · 90°."""

    first: np.ndarray
    count: np.ndarray
    turns: np.ndarray

    @classmethod
    def of(cls, first: np.ndarray, count: np.ndarray, rotations: bool = False) -> Classes:
        """`rotations`: each class also turned by 90°, 180° and 270°, as three classes more."""
        turns = np.arange(4 if rotations else 1)
        return cls(np.repeat(first, len(turns)), np.repeat(count, len(turns)), np.tile(turns, len(first)))

    def __len__(self) -> int:
        return len(self.first)


class FewShotSampler:
    """Draws tasks of `ways` classes with `shots` + `queries` distinct images each."""

    loss: ClassVar[str] = "cross_entropy"
    block_runs: ClassVar[int] = 1

    def __init__(self, images: np.ndarray, splits: dict[Split, Classes], family: FewShotImages) -> None:
        """`images`: (n, C, H, W) uint8, in memory or memory-mapped."""
        self.images, self.splits, self.family = images, splits, family
        self.sample_shape = tuple(images.shape[1:])
        self.outputs = family.ways
        self._check()

    def _check(self) -> None:
        family = self.family
        for name, value, least in (
            ("ways", family.ways, 2),
            ("shots", family.shots, 1),
            ("queries", family.queries, 1),
        ):
            if value < least:
                raise ValueError(f"task.{name} must be at least {least}, not {value}")
        for split, classes in self.splits.items():
            if family.ways > len(classes):
                raise ValueError(f"task.ways is {family.ways}, but the {split} split has only {len(classes)} classes")
            smallest = int(classes.count.min())
            if family.shots + family.queries > smallest:
                raise ValueError(
                    f"task.shots + task.queries is {family.shots} + {family.queries}, but the smallest class of the "
                    f"{split} split has only {smallest} images"
                )
        if (self.splits["train"].turns % 2).any() and self.sample_shape[1] != self.sample_shape[2]:
            raise ValueError(f"task.rotations needs square images, not {self.sample_shape[1:]}")

    def sample(
        self, split: Split, rng: np.random.Generator, tasks: int, part: slice = slice(None), queries: int | None = None
    ) -> TaskBatch:
        """Images (B, ways · shots, C, H, W) uint8 and class numbers (B, ways · shots) int64; likewise the queries."""
        classes, shots = self.splits[split], self.family.shots
        each = shots + (queries or self.family.queries)
        chosen = distinct(rng, np.full(tasks, len(classes)), self.family.ways)
        places = distinct(rng, classes.count[chosen], each)
        chosen, places = chosen[part], places[part]
        images = self.images[classes.first[chosen][..., None] + places]
        for turns in range(1, 4):
            turned = classes.turns[chosen] == turns
            if turned.any():
                images[turned] = np.rot90(images[turned], turns, axes=(-2, -1))
        labels = np.arange(self.family.ways)[:, None] + np.zeros_like(places)
        return TaskBatch(_samples(images, labels, slice(shots)), _samples(images, labels, slice(shots, None)))


def _samples(images: np.ndarray, labels: np.ndarray, places: slice) -> Samples:
    """Some images of every class (B, ways, each, C, H, W), as one set for each task."""
    x, y = images[:, :, places], labels[:, :, places]
    tasks, ways, each = y.shape
    return Samples(x.reshape(tasks, ways * each, *x.shape[3:]), y.reshape(tasks, ways * each))


def distinct(rng: np.random.Generator, population: np.ndarray, number: int) -> np.ndarray:
    """`number` different whole numbers below each of `population` (...), in random order: (..., number) int64."""
    keys = rng.random((*population.shape, int(population.max())))
    keys[np.arange(keys.shape[-1]) >= population[..., None]] = np.inf
    smallest = np.argpartition(keys, number - 1, axis=-1)[..., :number]
    order = np.take_along_axis(keys, smallest, axis=-1).argsort(axis=-1)
    return np.take_along_axis(smallest, order, axis=-1)
