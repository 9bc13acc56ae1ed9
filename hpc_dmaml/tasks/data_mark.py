"""What identifies the data of a job, so that a later one notices where the data has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_dmaml.tasks.image_classes import Classes

if TYPE_CHECKING:
    from hpc_dmaml.results import Results
    from hpc_dmaml.tasks.family import Split, TaskSampler

GROUP = "classes/"
"""Group of a file with the classes of each split."""


@dataclass(frozen=True, eq=False)
class DataMark:
    """A digest of the samples, and the classes of each split. Empty for families that are only numbers, or give none."""

    data: str = ""
    classes: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Digests (n,) int64 of the classes' names, or in regression of the tasks', for each split."""

    @classmethod
    def of(cls, sampler: TaskSampler, data: str = "") -> DataMark:
        """`data`: the digest that the family, or its sampler, gives."""
        splits = getattr(sampler, "splits", None)
        if not isinstance(splits, dict):
            return cls(data)
        return cls(data, {n: _digests(each.names) for n, each in splits.items() if isinstance(each, Classes)})

    @classmethod
    def stored_in(cls, source: Results) -> DataMark:
        return cls(str(source.attributes.get("data", "")), source.group(GROUP))

    def changed(self, now: DataMark) -> bool:
        """Whether samples or classes are known to be others now."""
        other = any(
            not np.array_equal(self.classes[n], now.classes[n]) for n in self.classes.keys() & now.classes.keys()
        )
        return other or self.has_other_data(now)

    def has_other_data(self, now: DataMark) -> bool:
        return bool(self.data and now.data and self.data != now.data)

    def moved(self, now: DataMark, split: Split) -> int:
        """How many classes of a split have joined it from another split."""
        others = [each for name, each in self.classes.items() if name != split]
        joined = np.setdiff1d(now.classes.get(split, ()), self.classes.get(split, ()))
        return int(np.isin(joined, np.concatenate(others)).sum()) if others else 0

    def trained_on(self, now: DataMark) -> int:
        """How many classes of all splits have the name of a training class."""
        every = list(now.classes.values())
        return int(np.isin(self.classes.get("train", ()), np.concatenate(every)).sum()) if every else 0

    def stored(self) -> dict[str, Any]:
        """The classes as arrays of a file."""
        return {f"{GROUP}{name}": each for name, each in self.classes.items()}


def _digests(names: tuple[str, ...]) -> np.ndarray:
    digests = (hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(digest, "little", signed=True) for digest in digests], np.int64)
