"""Read plain numbers and text from an HDF5 file that is not trusted.

HDF5 can do more than hold arrays: refer to other files, load plug-ins, claim terabytes that nobody ever wrote. Here
arrays must be of numbers or text, be stored in the file itself, uncompressed, and together be no larger than the file.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5o, h5t

DEEPEST = 4
"""Greatest depth of groups within groups."""
_HEAP = b"GCOL\x01"
_PLAIN = (h5t.INTEGER, h5t.FLOAT, h5t.STRING)


def opened(path: Path) -> h5py.File:
    """An HDF5 file for reading, without a lock, which some file systems cannot give: files are replaced, never changed."""
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        if "locking flag" not in str(error):
            raise
        return h5py.File(path, "r")  # this process has opened it with a lock, as in a notebook


def check_heaps(path: Path) -> None:
    """Raise ValueError where HDF5 would hang: it steps through its heaps of texts by the texts' sizes, for ever if one
    is 0."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(_HEAP)
        while start >= 0:
            place, end = start + 16, start + int.from_bytes(content[start + 8 : start + 16], "little")
            while place + 16 <= end <= len(content):
                index, size = struct.unpack("<H6xQ", content[place : place + 16])
                step = 16 + -(-size // 8) * 8 if index else size  # header and text; or free space
                if not 16 <= step <= end - place:
                    raise ValueError("its texts are damaged")
                place += step
            start = content.find(_HEAP, start + 1)


def attributes(file: h5py.File) -> dict[str, Any]:
    """The root's attributes: numbers, arrays of them, and text. Raises ValueError for any other."""
    found = {}
    for name in file.attrs:
        attribute = file.attrs.get_id(name)
        shape = attribute.shape
        size = math.prod(shape) * attribute.get_type().get_size() if shape is not None else 0
        text = attribute.get_type().get_class() == h5t.STRING
        if not _is_plain(attribute) or size > file.id.get_filesize() or (text and shape):
            raise ValueError(f"its attribute {name} is not a plain number or text")
        found[name] = file.attrs[name]
    return found


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """All arrays by path, not yet read. Raises ValueError where one is not plain, or all are larger than the file."""
    found = dict(_below(file, "", set()))
    if sum(dataset.nbytes for dataset in found.values()) > (size := file.id.get_filesize()):
        raise ValueError(f"its arrays claim more than the file's {size} bytes")
    return found


def values(dataset: h5py.Dataset) -> np.ndarray:
    """Read an array. Raises ValueError where it holds more text than the file."""
    if not h5py.check_string_dtype(dataset.dtype):
        return dataset[()]
    # One by one: many of them could refer to the same, long text.
    left, flat, texts = dataset.file.id.get_filesize(), dataset.asstr(), []
    for place in np.ndindex(dataset.shape):
        texts.append(flat[place])
        left -= len(texts[-1])
        if left < 0:
            raise ValueError(f"{dataset.name} holds more text than the file")
    return np.array(texts, object).reshape(dataset.shape)


def _below(group: h5py.Group, prefix: str, seen: set[int]) -> Iterator[tuple[str, h5py.Dataset]]:
    if prefix.count("/") > DEEPEST:
        raise ValueError(f"{prefix} is too deep inside it")
    for name in group:
        path = prefix + name
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{path} is a link, not data")
        item = group[name]
        if (place := h5o.get_info(item.id).addr) in seen:
            raise ValueError(f"{path} is there twice")
        seen.add(place)
        if isinstance(item, h5py.Group):
            yield from _below(item, f"{path}/", seen)
        else:
            _check(path, item)
            yield path, item


def _check(path: str, item: Any) -> None:
    if not isinstance(item, h5py.Dataset) or not _is_plain(item.id):
        raise ValueError(f"{path} is not a plain array of numbers or text")
    plan = item.id.get_create_plist()
    if plan.get_external_count() or plan.get_layout() == h5d.VIRTUAL:
        raise ValueError(f"{path} has its data in another file")
    if plan.get_nfilters():
        raise ValueError(f"{path} is compressed or filtered")
    if item.nbytes > item.id.get_storage_size():
        raise ValueError(f"{path} claims more data ({item.nbytes} bytes) than it holds")


def _is_plain(item: Any) -> bool:
    """Whether an item holds numbers or text, in an array of some shape."""
    return item.shape is not None and item.get_type().get_class() in _PLAIN
