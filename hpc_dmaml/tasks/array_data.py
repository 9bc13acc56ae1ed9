"""Interpret and check a user's arrays: samples of classes, or samples with targets of regression tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from hpc_dmaml.tasks.array_file import read_arrays
from hpc_dmaml.tasks.class_split import CLASS, SPLITS, check_disjoint, split_named
from hpc_dmaml.tasks.family import Split

NAMES = ("x", "y", *CLASS, "task", "split")
BLOCK = 2**24
"""Bytes read at a time to compute a digest."""


class ArrayData(NamedTuple):
    """Samples in one form, whatever arrays the file holds."""

    arrays: dict[str, np.ndarray]
    """The arrays as they are in the file."""
    x: np.ndarray
    """(n, *sample shape)"""
    y: np.ndarray | None
    """(n, outputs), for regression."""
    names: list[str]
    """Names of the classes or tasks, sorted."""
    group: np.ndarray
    """Index into `names` of each sample's class or task, (n,)."""
    split: np.ndarray | None
    """The name of a split for each sample, or for each class or task."""

    @property
    def of(self) -> Literal["class", "task"]:
        return "class" if self.y is None else "task"

    def given_split(self, path: Path) -> dict[Split, list[str]]:
        """The classes or tasks of each split in the file. Raises ValueError if one is in two splits."""
        assert self.split is not None
        group, names = self.group, np.array(self.names)
        spelt, which = np.unique(self.split, return_inverse=True)
        of = group if len(which) == len(group) else np.arange(len(names))
        members: dict[Split, list[str]] = {}
        for i, text in enumerate(spelt.tolist()):
            split = split_named(text)
            assert split is not None  # others have been refused
            members.setdefault(split, []).extend(names[np.unique(of[which == i])].tolist())
        check_disjoint(members, path, "path", self.of)
        return {split: list(dict.fromkeys(those)) for split, those in members.items()}

    def digest(self) -> str:
        """A digest of all values, which it reads. Raises ValueError if one is NaN or infinite."""
        digest = hashlib.blake2b(digest_size=16)
        for name, array in self.arrays.items():
            digest.update(repr((name, array.shape, array.dtype.str)).encode())
            rows, bad, first = max(1, BLOCK // array[:1].nbytes), 0, -1
            for start in range(0, len(array), rows):
                block = np.ascontiguousarray(array[start : start + rows])
                if array.dtype.kind == "f" and not (finite := np.isfinite(block)).all():
                    first = start + int(np.argwhere(~finite)[0, 0]) if not bad else first
                    bad += int(finite.size - np.count_nonzero(finite))
                digest.update(block.reshape(-1).view(np.uint8).data)
            if bad:
                raise ValueError(
                    f"{name} must be finite numbers, but {bad} are NaN or infinite, the first in {name}[{first}]"
                )
        return digest.hexdigest()


def read_data(path: Path, verify: bool = False) -> ArrayData:
    """The samples in a file (see `read_arrays`). Raises ValueError if its arrays do not fit together."""
    arrays = read_arrays(path, NAMES, verify)
    labels_named = [name for name in ("y", *CLASS) if name in arrays]
    if "x" not in arrays or len(labels_named) != 1 or ("task" in arrays and "y" not in arrays):
        raise ValueError(
            "it must hold x and class (or label), for classification, or x, y and optionally task, for regression, but "
            f"of these it holds {', '.join(arrays) or 'none'}"
        )
    x, y, split = arrays["x"], arrays.get("y"), arrays.get("split")
    if x.dtype != np.uint8 and not _is_number(x, "fi"):
        raise ValueError(f"x must be bytes, scaled to [0, 1], or numbers (float16 to 64, int8 to 64), not {x.dtype}")
    if y is not None and not _is_number(y, "f"):
        raise ValueError(f"y must be of a type float16 to 64, not {y.dtype}; class numbers go into an array class")
    name = "task" if y is not None else labels_named[0]
    if y is None or name in arrays:
        labels = arrays[name]
        _check_shape("x", x, "(n, *sample shape), as (n, 1) for single numbers", 2, more=True)
        _check_shape(name, labels, "(n,)", 1)
        if y is not None:
            _check_shape("y", y, "(n, outputs), as (n, 1) for single numbers", 2)
        _check_equal({each: arrays[each].shape[:1] for each in ("x", "y", name) if each in arrays})
        if labels.dtype.kind not in "iuU":
            raise ValueError(f"{name} must be whole numbers or text, not {labels.dtype}")
    else:
        hint = "; or an array task (n,) must say which task each sample is of"
        _check_shape("x", x, f"(tasks, n, *sample shape), as (tasks, n, 1) for single numbers{hint}", 3, more=True)
        _check_shape("y", y, f"(tasks, n, outputs), as (tasks, n, 1) for single numbers{hint}", 3)
        _check_equal({"x": x.shape[:2], "y": y.shape[:2]})
        labels = np.repeat(np.arange(len(x)), x.shape[1])
        x, y = x.reshape(-1, *x.shape[2:]), y.reshape(-1, y.shape[2])
    names, group = np.unique(labels, return_inverse=True)
    data = ArrayData(arrays, x, y, names.astype(str).tolist(), group, split)
    if split is not None:
        _check_split(split, data)
    return data


def _is_number(array: np.ndarray, kinds: str) -> bool:
    """Whether PyTorch supports the array's type."""
    return array.dtype.kind in kinds and array.dtype.itemsize <= 8


def _check_shape(name: str, array: np.ndarray, wanted: str, dimensions: int, more: bool = False) -> None:
    if array.ndim < dimensions or (array.ndim > dimensions and not more) or 0 in array.shape:
        raise ValueError(f"{name} must be {wanted}, not of shape {array.shape}")


def _check_equal(begins: Mapping[str, tuple[int, ...]]) -> None:
    if len(set(begins.values())) > 1:
        said = ", ".join(f"that of {name} with {begin}" for name, begin in begins.items())
        raise ValueError(
            f"the shapes of {', '.join(begins)} must begin with the same numbers: {said}".replace(",)", ")")
        )


def _check_split(split: np.ndarray, data: ArrayData) -> None:
    if split.dtype.kind != "U":
        raise ValueError(f"split must be text, {', '.join(SPLITS)}, not {split.dtype}")
    numbers = {f"{len(data.group)} samples": len(data.group), f"{len(data.names)} {data.of} names": len(data.names)}
    if split.ndim != 1 or len(split) not in numbers.values():
        raise ValueError(
            f"split must have one name for each of the {' or of the '.join(numbers)}, not shape {split.shape}"
        )
    unknown = next((text for text in np.unique(split).tolist() if split_named(text) is None), None)
    if unknown is not None:
        raise ValueError(f"split holds {unknown!r}; the splits are {', '.join(SPLITS)}")
