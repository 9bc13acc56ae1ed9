"""N-way K-shot classification: the sampler of all families with classes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, get_args

import numpy as np

from hpc_dmaml.files import expanded
from hpc_dmaml.losses import CrossEntropy, Loss
from hpc_dmaml.requirements import count
from hpc_dmaml.tasks.augmentation import CHANCES, Augmentation
from hpc_dmaml.tasks.family import Samples, Split, TaskBatch, TaskFamily


@dataclass(frozen=True)
class FewShot(TaskFamily):
    """The fields that all families with classes share."""

    ways: int = 5
    """Number of classes in a task (N)."""
    shots: int = 1
    """Number of support samples of each class (K)."""
    queries: int = 1
    """Number of query samples of each class."""

    def _path(self, name: str) -> Path:
        """The path in a field, with ~ and $VARIABLES replaced. Raises ValueError for a variable that is not set."""
        try:
            return expanded(getattr(self, name))
        except ValueError as error:
            raise ValueError(f"task.{name}: {error}") from error

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation of training samples; none, except for images."""
        return Augmentation()


@dataclass(frozen=True)
class FewShotImages(FewShot):
    """The fields that all families of images (C, H, W) share."""

    flip: bool = False
    """Augmentation, in training tasks only: mirror half of the images, left to right."""
    shift: int = 0
    """Augmentation: shift images by up to this number of pixels in each direction; new pixels are black."""
    jitter: float = 0.0
    """Augmentation: change brightness, contrast and saturation of each image by up to this fraction, such as 0.4."""
    normalize: bool = False
    """Start the model with a fixed layer that standardises each channel by its mean and standard deviation over the
    training classes. The layer stays with the model, also in a warm start: inputs are always images in [0, 1]."""

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation(self.flip, self.shift, self.jitter)


@dataclass(frozen=True)
class Classes:
    """Classes as ranges of samples: class c has `count[c]` from `first[c]` on, images rotated by 90° · `turns[c]`."""

    first: np.ndarray
    count: np.ndarray
    turns: np.ndarray
    lacking: str | None = None
    """The error message for drawing from them, if classes are missing."""
    names: tuple[str, ...] = ()
    """Their names, without the rotated ones, if they have names."""

    @classmethod
    def of(
        cls,
        first: np.ndarray,
        count: np.ndarray,
        rotations: bool = False,
        lacking: str | None = None,
        names: Iterable[str] = (),
    ) -> Classes:
        """`rotations`: add each class rotated by 90°, 180° and 270° as three further classes."""
        turns = np.arange(4 if rotations else 1)
        several = np.repeat(first, len(turns)), np.repeat(count, len(turns)), np.tile(turns, len(first))
        return cls(*several, lacking, tuple(names))

    def __len__(self) -> int:
        return len(self.first)


class FewShotSampler:
    """Draws tasks of `ways` classes with `shots` + `queries` distinct samples each."""

    loss: ClassVar[Loss] = CrossEntropy()
    block_runs: ClassVar[int] = 1

    def __init__(
        self,
        images: np.ndarray,
        splits: dict[Split, Classes],
        family: FewShot,
        digest: str = "",
        at_random: bool = False,
        order: np.ndarray | None = None,
        source: str = "",
    ) -> None:
        """`images`: samples (n, *sample shape), in memory or memory-mapped. Raises ValueError for fields out of range.

        `digest` identifies the images; `at_random`: whether the classes were split at random; `order`: the samples'
        indices sorted by class, if they are not stored so; `source`: prefix of error messages. Whether a split has
        enough classes and samples is checked when it is first drawn from, because not every job needs all splits.
        """
        self.images, self.splits, self.family = images, splits, family
        self.digest, self.at_random = digest, at_random
        self.order, self.source = order, source
        self.sample_shape = tuple(images.shape[1:])
        self.outputs = family.ways
        self.augmentation = family.augmentation
        self._enough: set[tuple[Split, int]] = set()
        for name, least in (("ways", 2), ("shots", 1), ("queries", 1)):
            count(f"task.{name}", getattr(family, name), least)
        if self.augmentation and self.augmentation.shift >= min(self.sample_shape[1:]):
            size = self.sample_shape[1:]
            raise ValueError(f"task.shift must be less than the images' {size}, not {self.augmentation.shift}")
        turned = any((classes.turns % 2).any() for classes in splits.values())
        if turned and self.sample_shape[1] != self.sample_shape[2]:
            raise ValueError(f"task.rotations needs square images, not {self.sample_shape[1:]}")

    def check(self, split: Split, queries: int | None = None) -> None:
        """Raise ValueError if a split has too few classes or samples for a task."""
        family, classes = self.family, self.splits.get(split)
        if classes is not None and classes.lacking is not None:
            raise ValueError(classes.lacking)
        if classes is None or family.ways > len(classes):
            number = f"only {len(classes)}" if classes else "no"
            raise ValueError(f"{self.source}task.ways is {family.ways}, but the {split} split has {number} classes")
        smallest, queries = int(classes.count.min()), queries or family.queries
        if family.shots + queries > smallest:
            raise ValueError(
                f"{self.source}task.shots + task.queries is {family.shots} + {queries}, but the smallest class of the "
                f"{split} split has only {smallest} samples"
            )

    def pooled(self) -> FewShotSampler:
        """The same sampler, with all classes of the data in each split."""
        parts = self.splits.values()
        first, count, turns = (
            np.concatenate(each) for each in zip(*((p.first, p.count, p.turns) for p in parts), strict=True)
        )
        pool = Classes(first, count, turns)
        return FewShotSampler(
            self.images, dict.fromkeys(get_args(Split), pool), self.family, self.digest, False, self.order, self.source
        )

    def share(self, worker: int, workers: int) -> FewShotSampler:
        """A sampler with one worker's share of the training classes: consecutive ones, of equal number ± 1."""
        train = self.splits["train"]
        places = np.array_split(np.arange(len(train)), workers)[worker]
        own = Classes(train.first[places], train.count[places], train.turns[places], train.lacking)
        splits = {**self.splits, "train": own}
        source = f"{self.source}worker {worker} of {workers}, with its share of the classes: "
        return FewShotSampler(self.images, splits, self.family, self.digest, self.at_random, self.order, source)

    def statistics(self) -> dict[str, np.ndarray]:
        """`mean` and `std` (C,) of each channel over all pixels of the training classes, scaled to [0, 1]."""
        self.check("train")
        train = self.splits["train"]
        places = dict(zip(train.first.tolist(), train.count.tolist(), strict=True))  # without rotated copies
        sums = np.zeros((2, self.sample_shape[0]), np.int64)
        for first, size in places.items():
            numbers = self.images[first : first + size].astype(np.int32)
            sums += [(numbers**power).sum((0, 2, 3), dtype=np.int64) for power in (1, 2)]
        pixels = sum(places.values()) * math.prod(self.sample_shape[1:])
        total, squares = sums.astype(object)  # Python integers: a constant channel has variance 0 exactly
        mean, variance = (each.astype(float) for each in (total / pixels, (pixels * squares - total**2) / pixels**2))
        return {"mean": mean / 255, "std": np.where(variance > 0, np.sqrt(variance) / 255, 1.0)}

    def sample(
        self, split: Split, rng: np.random.Generator, tasks: int, part: slice = slice(None), queries: int | None = None
    ) -> TaskBatch:
        """Samples (B, ways · shots, *sample shape) and class numbers (B, ways · shots) int64; likewise the queries.

        Raises ValueError if the split has too few classes or samples.
        """
        shots = self.family.shots
        each = shots + (queries or self.family.queries)
        if (split, each) not in self._enough:
            self.check(split, queries)
            self._enough.add((split, each))
        classes = self.splits[split]
        chosen = distinct(rng, np.full(tasks, len(classes)), self.family.ways)
        places = distinct(rng, classes.count[chosen], each)
        chances = None
        if self.augmentation and split == "train":  # drawn last, so that it does not change the tasks
            chances = rng.random((*places.shape, CHANCES))[part]
        chosen, places = chosen[part], places[part]
        numbers = classes.first[chosen][..., None] + places
        images = self.images[numbers if self.order is None else self.order[numbers]]
        for turns in range(1, 4):
            turned = classes.turns[chosen] == turns
            if turned.any():
                images[turned] = np.rot90(images[turned], turns, axes=(-2, -1))
        if chances is not None:
            images = self.augmentation.apply(images, chances)
        labels = np.arange(self.family.ways)[:, None] + np.zeros_like(places)
        return TaskBatch(_samples(images, labels, slice(shots)), _samples(images, labels, slice(shots, None)))


def _samples(images: np.ndarray, labels: np.ndarray, places: slice) -> Samples:
    """Take some samples of every class (B, ways, each, *sample shape) as one set per task."""
    x, y = images[:, :, places], labels[:, :, places]
    tasks, ways, each = y.shape
    return Samples(x.reshape(tasks, ways * each, *x.shape[3:]), y.reshape(tasks, ways * each))


MANY = 1 << 13
"""Largest population for which `distinct` draws a random key for each number; beyond it, this is too slow."""


def distinct(rng: np.random.Generator, population: np.ndarray, number: int) -> np.ndarray:
    """Draw `number` distinct integers below each of `population` (...), in random order: (..., number) int64."""
    if population.max() > MANY:
        chosen = np.empty((*population.shape, number), np.int64)
        for i in range(
            number
        ):  # Floyd's algorithm: all sets have the same probability, and the cost depends on `number` only
            greatest = population - number + i
            drawn = rng.integers(greatest + 1)
            is_there = (chosen[..., :i] == drawn[..., None]).any(-1)
            chosen[..., i] = np.where(is_there, greatest, drawn)
        return rng.permuted(chosen, axis=-1)
    keys = rng.random((*population.shape, int(population.max())))
    keys[np.arange(keys.shape[-1]) >= population[..., None]] = np.inf
    smallest = np.argpartition(keys, number - 1, axis=-1)[..., :number]
    order = np.take_along_axis(keys, smallest, axis=-1).argsort(axis=-1)
    return np.take_along_axis(smallest, order, axis=-1)
