"""Decoded images in one HDF5 file: made once, by one rank a node, and memory-mapped by all."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from hpc_dmaml.files import is_sealed, locked, replacing, seal

VERSION = 1


class CachedImages(NamedTuple):
    images: np.ndarray
    """(n, C, H, W) uint8, memory-mapped"""
    names: list[str]
    """Class names, in the order of their images."""
    first: np.ndarray
    """Number of each class's first image."""
    counts: np.ndarray
    """Images of each class."""


def fingerprint(*parts: object) -> str:
    """What a cache was made from, in short: it is stale when this changes."""
    return hashlib.blake2b(repr((VERSION, *parts)).encode(), digest_size=16).hexdigest()


def folder_listing(folder: Path, files: Iterable[Path]) -> list[tuple[str, int]]:
    """Names and sizes in bytes: what tells one version of a data set from another."""
    return [(str(file.relative_to(folder)), file.stat().st_size) for file in files]


def build(
    path: Path,
    mark: str,
    classes: list[tuple[str, list[Any]]],
    shape: tuple[int, int, int],
    decode: Callable[[Any], np.ndarray],
    title: str,
) -> None:
    """Make the cache at `path`, unless it is there, whole, and made from what `mark` says.

    Each class has a name and a list of items; `decode` turns an item into an image of `shape` (C, H, W), uint8.
    """
    with locked(path):
        if is_valid(path, mark):
            return
        from tqdm import tqdm

        print(f"Caching {title} in {path}, once", file=sys.stderr, flush=True)
        counts = [len(items) for _, items in classes]
        with replacing(path) as temporary:
            with h5py.File(temporary, "w", locking=False) as file:
                # One contiguous block, so that readers can map it into memory.
                images = file.create_dataset("images", (sum(counts), *shape), np.uint8)
                images.attrs["description"] = "images, class after class, channels first"
                start = 0
                for _, items in tqdm(classes, unit=" classes", leave=False, disable=None):
                    images[start : start + len(items)] = np.stack([decode(item) for item in items])
                    start += len(items)
                file["count"] = counts
                file["names"] = [name for name, _ in classes]
                file.attrs["mark"] = mark
            seal(temporary)


def is_valid(path: Path, mark: str) -> bool:
    """Is there a whole cache made from what `mark` says?"""
    try:
        if not is_sealed(path):
            return False
        with h5py.File(path, locking=False) as file:
            return bool(file.attrs["mark"] == mark)
    except (OSError, KeyError):
        return False


def load(path: Path) -> CachedImages:
    """Map a cache that `build` has checked."""
    with h5py.File(path, locking=False) as file:
        dataset = file["images"]
        shape, offset = dataset.shape, dataset.id.get_offset()
        names, count = list(file["names"].asstr()), file["count"][:]
    images = np.memmap(path, np.uint8, "r", offset, shape)
    return CachedImages(images, names, count.cumsum() - count, count)


def cache_folder(beside: Path | None = None) -> Path:
    """`beside` if one may write there, else the user's cache folder."""
    if beside is not None and os.access(beside, os.W_OK):
        return beside
    from platformdirs import user_cache_path

    return user_cache_path("hpc_dmaml", appauthor=False)


def read_image(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """An image file as (C, H, W) uint8, resized if need be; one channel means grey. Errors name the file."""
    from PIL import Image

    channels, height, width = shape
    try:
        with Image.open(path) as image:
            decoded = image.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # each format has its own ways to fail on broken bytes
        raise ValueError(f"{path} is not a readable image: {error}") from error
    if decoded.size != (width, height):
        decoded = decoded.resize((width, height), Image.Resampling.LANCZOS)
    return np.moveaxis(np.asarray(decoded).reshape(height, width, channels), -1, 0)
