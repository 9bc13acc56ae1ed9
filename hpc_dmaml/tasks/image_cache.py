"""Decoded images in one HDF5 file: made once, by one rank a node, and memory-mapped by all."""

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
from hpc_dmaml.tasks.image_files import read_image

VERSION = 2
"""Of the decoding: what an older one has made is made again."""


class CachedImages(NamedTuple):
    images: np.ndarray
    """(n, C, H, W) uint8, memory-mapped"""
    names: list[str]
    """Class names, in the order of their images."""
    first: np.ndarray
    """Number of each class's first image."""
    counts: np.ndarray
    """Images of each class."""
    digest: str
    """Of all of this: the same for the same images."""


def fingerprint(*parts: object) -> str:
    """What a cache was made from, in short: it is stale when this changes."""
    return hashlib.blake2b(repr((VERSION, *parts)).encode(), digest_size=16).hexdigest()


def folder_listing(folder: Path, files: Iterable[Path]) -> list[tuple[str, int, int, int]]:
    """Names, sizes in bytes and times of change: what tells one version of a data set from another.

    An image of the same size in another's place may bear its time of modification (archives bring their own), but the
    time of the last change of its entry is the system's. Where a copy alone has changed it, decoding again is only slow.
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
    """Make the cache at `path`, unless it is there, whole, and made from what `mark` says. Returns its digest.

    Each class has a name and a list of items, and is not asked for where the cache is there; `decode` turns an item into
    an image of `shape` (C, H, W), uint8; without it they are image files. Raises ValueError where the cache cannot be written.
    """
    try:
        with locked(path):
            if not is_valid(path, mark):
                print(f"Caching {title} in {path}, once", file=sys.stderr, flush=True)
                _write(path, mark, list(classes), shape, decode or partial(read_image, shape=shape))
            return load(path).digest
    except OSError as error:
        raise ValueError(
            f"cannot write {path}, the cache of {title}: {error}. It stands beside task.root, if one may write there, "
            "else in the user's cache folder: XDG_CACHE_HOME names another"
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
        with h5py.File(temporary, "w", locking=False) as file:
            # One contiguous block, so that readers can map it into memory.
            images = file.create_dataset("images", (sum(counts), *shape), np.uint8)
            images.attrs["description"] = "images, class after class, channels first"
            start = 0
            for _, items in tqdm(classes, unit=" classes", leave=False, disable=None):
                decoded = np.ascontiguousarray([decode(item) for item in items])
                images[start : start + len(items)] = decoded
                digest.update(decoded.data)
                start += len(items)
            file["count"] = counts
            file.create_dataset("names", data=names, dtype=h5py.string_dtype())
            file.attrs.update(mark=mark, digest=digest.hexdigest())
        add_checksum(temporary)


def is_valid(path: Path, mark: str) -> bool:
    """Is there a whole cache made from what `mark` says?"""
    try:
        if not checksum_fits(path):
            return False
        with h5py.File(path, locking=False) as file:
            return bool(file.attrs["mark"] == mark)
    except (OSError, KeyError):
        return False


def load(path: Path) -> CachedImages:
    """Map a cache that `build` has checked. Raises ValueError where it is gone."""
    try:
        with h5py.File(path, locking=False) as file:
            dataset = file["images"]
            shape, offset = dataset.shape, dataset.id.get_offset()
            names, count = list(file["names"].asstr(errors="surrogateescape")), file["count"][:]
            digest = str(file.attrs["digest"])
        images = np.memmap(path, np.uint8, "r", offset, shape)
    except (OSError, KeyError) as error:
        raise ValueError(f"cannot read {path}, the cache of decoded images: {error}") from error
    return CachedImages(images, names, count.cumsum() - count, count, digest)


def cache_folder(beside: Path | None = None) -> Path:
    """`beside` if one may write there, else the user's cache folder."""
    if beside is not None and os.access(beside, os.W_OK):
        return beside
    from platformdirs import user_cache_path

    return user_cache_path("hpc_dmaml", appauthor=False)
