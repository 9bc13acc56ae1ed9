"""A cache of decoded images in one HDF5 file: written once, by one rank per node, and memory-mapped by all."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from hpc_dmaml.files import add_checksum, checksum_fits, locked, replacing
from hpc_dmaml.plain_hdf5 import opened
from hpc_dmaml.results import creating
from hpc_dmaml.tasks.image_files import read_image

VERSION = 2
"""Version of the decoding; caches of another version are rebuilt."""


class CachedImages(NamedTuple):
    images: np.ndarray
    """(n, C, H, W) uint8, memory-mapped."""
    names: list[str]
    """Class names, in the order of their images."""
    first: np.ndarray
    """Index of each class's first image."""
    counts: np.ndarray
    """Number of images of each class."""
    digest: str
    """Digest of names, counts, shape and images."""


def fingerprint(*parts: object) -> str:
    """A digest of what a cache is made from; when it changes, the cache is out of date."""
    return hashlib.blake2b(repr((VERSION, *parts)).encode(), digest_size=16).hexdigest()


def folder_listing(folder: Path, files: Iterable[Path]) -> list[tuple[str, int, int, int]]:
    """Names, sizes in bytes and times of change of the files, which identify the version of a data set.

    An image that replaces one of the same size may have its time of modification (archives restore it), but not its
    ctime, which the system sets. If only copying has changed the ctime, decoding again is unnecessary, but harmless.
    """
    stats = ((str(file).removeprefix(f"{folder}/"), file.stat()) for file in files)
    return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]


def build(
    path: Path,
    mark: str,
    classes: Iterable[tuple[str, list[Any]]],
    shape: tuple[int, int, int],
    title: str,
    decode: Callable[[Any], np.ndarray] | None = None,
) -> str:
    """Write the cache at `path`, unless there is an intact one with the fingerprint `mark`. Returns its digest.

    Each class has a name and a list of items; `classes` is not iterated if the cache exists. `decode` converts an item
    to an image of `shape` (C, H, W), uint8; by default items are image files. Raises ValueError if writing fails.
    """
    try:
        with locked(path):
            if not is_valid(path, mark):
                print(f"Caching {title} in {path}, once", file=sys.stderr, flush=True)
                _write(path, mark, list(classes), shape, decode or partial(read_image, shape=shape))
            return load(path).digest
    except OSError as error:
        raise ValueError(
            f"cannot write {path}, the cache of {title}: {error}. It is next to task.root, if that folder is writable, "
            "else in the user's cache folder; XDG_CACHE_HOME sets another"
        ) from error


def _write(
    path: Path,
    mark: str,
    classes: list[tuple[str, list[Any]]],
    shape: tuple[int, int, int],
    decode: Callable[[Any], np.ndarray],
) -> None:
    from tqdm import tqdm

    counts = [len(items) for _, items in classes]
    names = [name.encode(errors="surrogateescape") for name, _ in classes]  # a folder's name may be any bytes
    digest = hashlib.blake2b(repr((names, counts, shape)).encode(), digest_size=16)
    with replacing(path) as temporary:
        with creating(temporary) as (file, check):
            # One contiguous block, so that readers can map it into memory.
            images = file.create_dataset("images", (sum(counts), *shape), np.uint8)
            images.attrs["description"] = "images, class after class, channels first"
            start = 0
            for _, items in tqdm(classes, unit=" classes", leave=False, disable=None):
                decoded = np.ascontiguousarray([decode(item) for item in items])
                images[start : start + len(items)] = decoded
                digest.update(decoded.data)
                start += len(items)
                check()
            file["count"] = counts
            file.create_dataset("names", data=names, dtype=h5py.string_dtype())
            file.attrs.update(mark=mark, digest=digest.hexdigest())
        add_checksum(temporary)


def is_valid(path: Path, mark: str) -> bool:
    """Whether there is an intact cache with the fingerprint `mark`."""
    try:
        if not checksum_fits(path):
            return False
        with opened(path) as file:
            return bool(file.attrs["mark"] == mark)
    except (OSError, KeyError):
        return False


def load(path: Path) -> CachedImages:
    """Map a cache that `build` has checked. Raises ValueError if it cannot be read."""
    try:
        with opened(path) as file:
            dataset = file["images"]
            shape, offset = dataset.shape, dataset.id.get_offset()
            names, count = list(file["names"].asstr(errors="surrogateescape")), file["count"][:]
            digest = str(file.attrs["digest"])
        images = np.memmap(path, np.uint8, "r", offset, shape)
    except (OSError, KeyError) as error:
        raise ValueError(f"cannot read {path}, the cache of decoded images: {error}") from error
    return CachedImages(images, names, count.cumsum() - count, count, digest)


def cache_folder(beside: Path | None = None) -> Path:
    """`beside` if it is writable, else the user's cache folder."""
    if beside is not None and os.access(beside, os.W_OK):
        return beside
    from platformdirs import user_cache_path

    return user_cache_path("hpc_dmaml", appauthor=False)
