"""Arrays in files: what comes is what was written, mapped where it can be, and nothing else is opened or run."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hpc_dmaml.tasks.array_file import read_arrays
from tests.tasks.folders import damaged

NUMBERS = hnp.arrays(
    st.one_of(hnp.integer_dtypes(endianness="?"), hnp.unsigned_integer_dtypes(endianness="?"), hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)), st.just(bool)),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0),
)  # fmt: skip
ON_FILES = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def in_hdf5(path: Path, arrays: dict[str, np.ndarray], **options) -> Path:
    userblock = options.pop("userblock_size", 0)
    with h5py.File(path, "w", userblock_size=userblock) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **options)
    return path


def written(path: Path, way: str, arrays: dict[str, np.ndarray]) -> Path:
    """A file of arrays, in one of the ways that people write them."""
    if way.startswith("npz"):
        (np.savez if way == "npz" else np.savez_compressed)(path.with_suffix(".npz"), **arrays)
        return path.with_suffix(".npz")
    options = {"h5": {}, "h5 with a userblock": {"userblock_size": 512}, "h5 compressed": {"compression": "gzip"}}[way]
    return in_hdf5(path.with_suffix(".h5"), arrays, **options)


PLAIN = ("h5", "h5 with a userblock", "npz")


@ON_FILES
@given(array=NUMBERS, fortran=st.booleans(), way=st.sampled_from([*PLAIN, "npz compressed"]))
def test_what_is_read_is_what_was_written_in_any_shape_and_type(tmp_path, array, fortran, way):
    array = np.asfortranarray(array) if fortran else array
    found = read_arrays(written(tmp_path / "x", way, {"other": np.arange(3), "x": array}), ("x", "y"), verify=True)
    assert list(found) == ["x"]
    np.testing.assert_array_equal(found["x"], array)
    assert found["x"].dtype == array.dtype.newbyteorder("=")
    assert found["x"].dtype.isnative


@pytest.mark.parametrize("way", [*PLAIN, "h5 compressed", "npz compressed"])
def test_what_lies_plainly_in_the_file_is_mapped(tmp_path, way):
    x = np.random.default_rng(0).random((50, 3, 4), np.float32)
    found = read_arrays(written(tmp_path / "x", way, {"x": x}), ["x"])["x"]
    assert isinstance(found, np.memmap) == (way in PLAIN)
    np.testing.assert_array_equal(found, x)


def test_what_hdf5_keeps_in_another_way_than_numpy_is_not_taken_for_it(tmp_path):
    twelve_bits = h5py.h5t.STD_I16LE.copy()
    twelve_bits.set_precision(12)
    twelve_bits.set_offset(4)
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=512) as file:
        space = h5py.h5s.create_simple((5,))
        h5py.h5d.create(file.id, b"x", twelve_bits, space).write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(5))
        file.create_dataset("never written", (4,), "f4", fillvalue=7)
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        h5py.h5d.create(file.id, b"compact", h5py.h5t.NATIVE_INT64, space, compact).write(
            h5py.h5s.ALL, h5py.h5s.ALL, np.arange(5)
        )
    found = read_arrays(tmp_path / "x.h5", ("x", "never written", "compact"))
    assert [found[name].tolist() for name in found] == [list(range(5)), [7] * 4, list(range(5))]


@pytest.mark.parametrize("way", ["h5", "npz"])
@pytest.mark.parametrize("text", [np.array(["Käfer", "x"]), np.array([b"one", b"two"])])
def test_text_is_text(tmp_path, way, text):
    if way == "h5" and text.dtype.kind == "U":
        text = text.astype(h5py.string_dtype())
    found = read_arrays(written(tmp_path / "x", way, {"class": text}), ["class"])["class"]
    assert found.tolist() in (["Käfer", "x"], ["one", "two"])
    assert found.dtype.kind == "U"


class Trap:
    """What a pickle runs when it is opened."""

    def __reduce__(self):
        return os.abort, ()


def test_nothing_is_unpickled_and_no_other_file_is_opened(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.array([Trap()], object))
    with pytest.raises(ValueError, match=r"x holds Python objects, .*: save text as np\.array\(x, str\)"):
        read_arrays(tmp_path / "x.npz", ["x"])
    in_hdf5(tmp_path / "other.h5", {"x": np.arange(6.0)})
    (tmp_path / "raw").write_bytes(bytes(48))
    layout = h5py.VirtualLayout((6,), "f8")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "x", (6,))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["inner"] = np.arange(3.0)
        file["soft"], file["outer"] = h5py.SoftLink("/inner"), h5py.ExternalLink("other.h5", "x")
        file["dangling"] = h5py.ExternalLink("gone.h5", "x")
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("external", (6,), "f8", external=[(str(tmp_path / "raw"), 0, 48)])
        file["group/x"], file["empty"] = 1.0, h5py.Empty("f4")
    for name in ("soft", "outer", "dangling", "virtual", "external", "group", "empty"):
        with pytest.raises(ValueError, match=f"{name} must be an array stored in this file"):
            read_arrays(tmp_path / "x.h5", [name])


@pytest.mark.parametrize(
    "odd", [np.zeros(2, complex), np.zeros(2, [("a", int), ("b", float)]), np.array([b"\xff"])], ids=str
)
@pytest.mark.parametrize("way", ["h5", "npz"])
def test_what_is_neither_numbers_nor_text_is_refused(tmp_path, way, odd):
    with pytest.raises(ValueError, match="x must be numbers or text, not|cannot be read: 'utf-8' codec"):
        read_arrays(written(tmp_path / "x", way, {"x": odd}), ["x"])


def test_references_and_lists_of_different_length_are_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["ragged"] = np.array([np.arange(2), np.arange(3)], h5py.vlen_dtype(int))
        file["reference"] = file["ragged"].ref
    for name in ("ragged", "reference"):
        with pytest.raises(ValueError, match=f"{name} must be numbers or text, not object"):
            read_arrays(tmp_path / "x.h5", [name])


@pytest.mark.parametrize("content", [b"", b"x,y\n1,2\n", b"\x89HDF\r\n\x1a\n", b"PK\x05\x06" + bytes(17)])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=r"neither an HDF5 nor an \.npz file|cannot be read"):
        read_arrays(tmp_path / "x", ["x"])
    for none, message in (("gone", "there is no such file"), (".", "it is not a regular file")):
        with pytest.raises(ValueError, match=message):
            read_arrays(tmp_path / none, ["x"])


@ON_FILES
@given(data=st.data(), compressed=st.booleans())
def test_a_damaged_npz_gives_what_was_written_or_is_refused(tmp_path, data, compressed):
    x = np.arange(60.0).reshape(20, 3)
    path = written(tmp_path / "x", "npz compressed" if compressed else "npz", {"x": x})
    path.write_bytes(damaged(data, path.read_bytes()))
    try:
        found = read_arrays(path, ["x"], verify=True)
    except ValueError:
        return
    assert not found or np.array_equal(found["x"], x)


def test_an_npz_may_have_something_in_front_and_names_of_any_length(tmp_path):
    path, x = tmp_path / "x.npz", np.arange(12.0)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("ä" * 200, "x"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, x)
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    found = read_arrays(path, ["x"], verify=True)["x"]
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, x)
