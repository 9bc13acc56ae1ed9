"""Arrays by name in an HDF5 or .npz file: mapped into memory where they lie there plainly, else read."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np


def read_arrays(path: Path, names: Iterable[str], verify: bool = False) -> dict[str, np.ndarray]:
    """Those of `names` that the file has. Large ones are mapped: they cost no memory that the system cannot take back.

    Mapped are a contiguous dataset of HDF5 and an uncompressed member of .npz; what is compressed or chunked, of another
    byte order or in Fortran order is read, and so is text, which comes as str. Nothing is unpickled and no other file is
    opened. `verify`: mapped members are compared with their checksum, which .npz has. Raises ValueError.
    """
    if not path.is_file():
        raise ValueError("there is no such file")
    try:
        if h5py.is_hdf5(path):
            return dict(_in_hdf5(path, names))
        if zipfile.is_zipfile(path):
            return dict(_in_npz(path, names, verify))
    except Exception as error:  # broken bytes make each format fail in ways of its own
        raise ValueError(f"cannot be read: {error or type(error).__name__}") from error
    raise ValueError("it is neither an HDF5 nor an .npz file")


def _in_hdf5(path: Path, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    with h5py.File(path, locking=False) as file:
        for name in names:
            link = file.get(name, getlink=True)  # looked at, not followed
            if link is None:
                continue
            dataset = file[name] if isinstance(link, h5py.HardLink) else None
            if not isinstance(dataset, h5py.Dataset) or dataset.shape is None or dataset.is_virtual or dataset.external:
                raise ValueError(
                    f"{name} must be an array with its numbers in this file, no group, link or virtual one"
                )
            yield name, _text(name, _mapped_dataset(path, dataset) if dataset.dtype.kind != "O" else _strings(dataset))


def _strings(dataset: Any) -> np.ndarray:
    if h5py.check_string_dtype(dataset.dtype) is None:
        return np.empty(dataset.shape, object)  # to be refused
    return np.array(dataset.asstr()[()], np.str_)


def _mapped_dataset(path: Path, dataset: Any) -> np.ndarray:
    number, layout = dataset.id, dataset.id.get_create_plist().get_layout()
    plain = number.get_type().equal(h5py.h5t.py_create(dataset.dtype))  # not, say, 12 bits of 16
    if plain and layout == h5py.h5d.CONTIGUOUS and number.get_storage_size() == dataset.nbytes:  # 0: never written
        mapped = _map(path, dataset.dtype, number.get_offset(), dataset.shape)
        if mapped is not None:
            return mapped
    return np.asarray(dataset[()])


def _in_npz(path: Path, names: Iterable[str], verify: bool) -> Iterator[tuple[str, np.ndarray]]:
    with zipfile.ZipFile(path) as archive:
        for name in names:
            if f"{name}.npy" in archive.NameToInfo:
                yield name, _text(name, _member(path, archive, archive.getinfo(f"{name}.npy"), verify))


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, verify: bool) -> np.ndarray:
    mapped = None
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if info.compress_type == zipfile.ZIP_STORED and version in ((1, 0), (2, 0)):
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, in_fortran_order, dtype = header(member)
            if not in_fortran_order and not dtype.hasobject:
                mapped = _map(path, dtype, _start(path, info) + member.tell(), shape)
        while verify and mapped is not None and member.read(2**20):
            pass  # at the end it compares the checksum
    if mapped is None:
        with archive.open(info) as member:
            return np.asarray(np.lib.format.read_array(member, allow_pickle=False))
    return mapped


def _start(path: Path, info: zipfile.ZipInfo) -> int:
    """Where in the file an uncompressed member begins: behind its header of 30 bytes, a name and an extra field."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        return info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))


def _map(path: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array that lies there, mapped; None where it is not numbers as this machine writes them."""
    if dtype.kind not in "iuf" or not dtype.isnative or 0 in shape:
        return None
    return np.memmap(path, dtype, "r", offset, shape)


def _text(name: str, array: np.ndarray) -> np.ndarray:
    """Bytes as text, other byte orders as this machine's. Raises ValueError for what is neither numbers nor text."""
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8")
    if array.dtype.kind not in "biufU":
        raise ValueError(f"{name} must be numbers or text, not {array.dtype}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
