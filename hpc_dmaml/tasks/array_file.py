"""Read arrays by name from an HDF5 or .npz file, memory-mapped where the file stores them as plain bytes."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpc_dmaml.plain_hdf5 import opened


def read_arrays(path: Path, names: Iterable[str], verify: bool = False) -> dict[str, np.ndarray]:
    """The arrays among `names` that the file has. Raises ValueError if it cannot be read.

    Contiguous datasets of HDF5 and uncompressed members of .npz are memory-mapped, so that the system can reclaim their
    memory. Arrays that are compressed, chunked, in another byte order or in Fortran order are read, and text as str.
    Nothing is unpickled and no other file is opened. `verify`: check mapped members of .npz against their checksum.
    """
    if not path.is_file():
        raise ValueError("it is not a regular file" if path.exists() else "there is no such file")
    try:
        if h5py.is_hdf5(path):
            return dict(_in_hdf5(path, names))
        if zipfile.is_zipfile(path):
            return dict(_in_npz(path, names, verify))
    except Exception as error:  # a corrupt file can raise anything, by its format
        raise ValueError(f"cannot be read: {error or type(error).__name__}") from error
    raise ValueError("it is neither an HDF5 nor an .npz file")


def _in_hdf5(path: Path, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    with opened(path) as file:
        for name in names:
            link = file.get(name, getlink=True)  # the link itself, without following it
            if link is None:
                continue
            dataset = file[name] if isinstance(link, h5py.HardLink) else None
            if not isinstance(dataset, h5py.Dataset) or dataset.shape is None or dataset.is_virtual or dataset.external:
                raise ValueError(
                    f"{name} must be an array stored in this file, not a group, a link or a virtual dataset"
                )
            yield name, _text(name, _mapped_dataset(path, dataset) if dataset.dtype.kind != "O" else _strings(dataset))


def _strings(dataset: Any) -> np.ndarray:
    if h5py.check_string_dtype(dataset.dtype) is None:
        return np.empty(dataset.shape, object)  # `_text` refuses it
    return np.array(dataset.asstr()[()], np.str_)


def _mapped_dataset(path: Path, dataset: Any) -> np.ndarray:
    number, layout = dataset.id, dataset.id.get_create_plist().get_layout()
    plain = number.get_type().equal(h5py.h5t.py_create(dataset.dtype))  # not, for example, 12 of 16 bits
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
        if version in ((1, 0), (2, 0)):
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, in_fortran_order, dtype = header(member)
            if dtype.hasobject:
                name = info.filename.removesuffix(".npy")
                raise ValueError(
                    f"{name} holds Python objects, which are not unpickled: save text as np.array({name}, str)"
                )
            if info.compress_type == zipfile.ZIP_STORED and not in_fortran_order:
                mapped = _map(path, dtype, _start(path, info) + member.tell(), shape)
        while verify and mapped is not None and member.read(2**20):
            pass  # zipfile checks the checksum at the end
    if mapped is None:
        with archive.open(info) as member:
            return np.asarray(np.lib.format.read_array(member, allow_pickle=False))
    return mapped


def _start(path: Path, info: zipfile.ZipInfo) -> int:
    """The offset in the file of a member's data: after its header of 30 bytes, a name and an extra field."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        return info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))


def _map(path: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> np.ndarray | None:
    """Memory-map an array; None if it is empty or not of this machine's numeric types."""
    if dtype.kind not in "iuf" or not dtype.isnative or 0 in shape:
        return None
    return np.memmap(path, dtype, "r", offset, shape)


def _text(name: str, array: np.ndarray) -> np.ndarray:
    """Convert bytes to text and numbers to the native byte order. Raises ValueError for other types."""
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8")
    if array.dtype.kind not in "biufU":
        raise ValueError(f"{name} must be numbers or text, not {array.dtype}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
