"""Merge many result files into one archive, and split it again, every number to the last bit; one file at a time is in
memory. Checkpoints, which only --resume and evaluate --which ensemble need, are left out by default.

    hpc_dmaml merge results/scaling --output scaling.h5         # one HDF5 file, a group for each job, compressed
    hpc_dmaml merge results/scaling --output scaling.csv --groups runs validation
    hpc_dmaml merge results/scaling --output scaling.h5 --checkpoints  # jobs to be resumed after --split
    hpc_dmaml merge --split scaling.h5 --output results/again   # a file for each job again

In the HDF5 file, a job's group is named by its path below the folder given and holds its arrays and attributes; copies
of the sweeps' files are added. The CSV has a row for each number: job, name ("@config" is an attribute), type, index,
value; numbers are written so that reading them gives the same to the last bit. Needs neither pandas nor torch nor MPI.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np

from hpc_dmaml import results
from hpc_dmaml.analysis import command
from hpc_dmaml.analysis.words import printable
from hpc_dmaml.files import add_checksum, checksum_fits, replacing, replacing_csv, require_new, writing
from hpc_dmaml.importing import did_you_mean
from hpc_dmaml.plain_hdf5 import opened
from hpc_dmaml.sweep import BASE, COPY

ARCHIVE = "hpc_dmaml archive 1"
SWEEP_FILES = (COPY, BASE)
"""What describes a sweep in its folder of results."""
CHECKPOINT = "checkpoint"
"""The group that only a resume and an ensemble need."""
FORMAT = ("v110", "v110")
"""That of HDF5 1.10 (2016), which takes a third of the space of the oldest for groups and small arrays."""
COMPRESSED_FROM = 1024
"""Least size in bytes of an array for which compression pays."""


def find(sources: Sequence[Path]) -> list[tuple[str, Path]]:
    """Names in the archive and paths of the result files, and of the sweeps' files beside them. Raises ValueError."""
    for source in sources:
        if not source.exists():
            raise ValueError(f"there is no file or folder {source}")
    paths = [p for s in sources for p in (sorted(s.rglob("*.h5")) if s.is_dir() else [s])]
    if not paths:
        raise ValueError(f"no result file (*.h5) in {', '.join(map(str, sources)) or 'nothing'}")
    paths = list(dict.fromkeys(path.resolve() for path in paths))
    sweeps = dict.fromkeys(path.parent for path in paths if path.with_name(COPY).exists())
    beside = (folder / name for folder in sweeps for name in SWEEP_FILES)
    texts = dict.fromkeys(path for path in beside if path.exists())
    top = Path(os.path.commonpath([path.parent for path in paths]))
    names = [(path.relative_to(top).as_posix(), path) for path in (*paths, *texts)]
    if odd := [name for name, _ in names if not _is_unicode(name)]:
        raise ValueError(f"the name of the file {printable(odd[0])} is no text in UTF-8: rename it")
    return names


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except ValueError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error


def _is_unicode(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def require_groups(found: Sequence[tuple[str, Path]], groups: Sequence[str]) -> None:
    """Raise ValueError where no file has one of the groups."""
    known: set[str] = set()
    paths = (path for _, path in found if path.name not in SWEEP_FILES)
    while missing := [group for group in groups if group not in known]:
        path = next(paths, None)  # mostly the first file has them all
        if path is None:
            there = ", ".join(sorted(known)) + did_you_mean(missing[0], known)
            raise ValueError(f"--groups: no file has a group {missing[0]!r}; there are {there}")
        known |= {name.partition("/")[0] for name in results.read(path).arrays}


def to_hdf5(found: Sequence[tuple[str, Path]], output: Path, groups: Sequence[str], checkpoints: bool) -> None:
    with replacing(output) as temporary:
        with results.creating(temporary, FORMAT) as (archive, check):
            archive.attrs["content"] = ARCHIVE
            for name, path in found:
                check()
                if path.name in SWEEP_FILES:
                    archive[name] = _text(path)
                    continue
                source = _read(path, groups, checkpoints)
                job = archive.create_group(name)
                job.attrs.update(source.attributes)
                for array, values in source.arrays.items():
                    kind = h5py.string_dtype() if values.dtype.kind == "O" else None
                    big = values.nbytes >= COMPRESSED_FROM and kind is None
                    options = {"compression": "gzip", "shuffle": True, "fletcher32": True} if big else {}
                    job.create_dataset(array, data=values, dtype=kind, **options)
        add_checksum(temporary)


def to_csv(found: Sequence[tuple[str, Path]], output: Path, groups: Sequence[str], checkpoints: bool) -> None:
    with replacing_csv(output) as file:
        writer = csv.writer(file)
        writer.writerow(["job", "name", "type", "index", "value"])
        for name, path in found:
            if path.name in SWEEP_FILES:
                writer.writerow([name, "", "text", "", _text(path)])
                continue
            source = _read(path, groups, checkpoints)
            everything = {f"@{key}": np.asarray(value) for key, value in source.attributes.items()} | source.arrays
            for key, values in everything.items():
                writer.writerows([name, key, *row] for row in _numbers(values))


def _read(path: Path, groups: Sequence[str], checkpoints: bool) -> results.Results:
    source = results.read(path, *groups)
    if checkpoints or CHECKPOINT in groups:
        return source
    return replace(source, arrays={k: v for k, v in source.arrays.items() if k.partition("/")[0] != CHECKPOINT})


def split(archive: Path, folder: Path) -> int:
    """Write each job of an archive as a result file of its own, with its checksum; returns their number. Raises
    ValueError where a file is there already, or where the archive holds only some groups."""
    with _reading(archive):
        if checksum_fits(archive) is not True:
            raise ValueError("it has no checksum that fits: it was damaged, or is not one of ours")
        file = opened(archive)
    with file:
        with _reading(archive):
            if file.attrs.get("content") != ARCHIVE:
                raise ValueError("it is a result file of one job")
            jobs = _jobs(file)
            for name in jobs:
                if ".." in PurePosixPath(name).parts:
                    raise ValueError(f"its job {name!r} would lie outside of {folder}")
        for name in jobs:
            require_new(folder / name)
        for name, item in jobs.items():
            with _reading(archive):
                content = _content(item)
            with command.naming(folder / name), writing(folder / name):
                _restore(content, folder / name)
    return sum(not name.endswith(SWEEP_FILES) for name in jobs)


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Raise ValueError, naming the archive, where the block cannot read it."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{archive} is not a readable archive: {error}") from error
    except ValueError as error:
        raise ValueError(f"{archive}: {error}") from error


def _content(item: h5py.Group | h5py.Dataset) -> str | tuple[results.Arrays, dict[str, Any]]:
    """The text of a sweep's file, or the arrays and attributes of a job."""
    if isinstance(item, h5py.Dataset):
        return str(item.asstr()[()])
    arrays = {}
    item.visititems(lambda name, below: arrays.update({name: below}) if isinstance(below, h5py.Dataset) else None)
    arrays, attributes = results.upgraded(arrays, item.attrs)
    missing = [name for name in results.VARIABLES if name not in arrays]
    if missing:
        raise ValueError(f"it holds only some groups of its jobs, without {missing[0]}: they cannot be made whole")
    if any(dataset.is_virtual or dataset.external for dataset in arrays.values()):
        raise ValueError("it has its data in other files")
    values = {n: d.asstr()[()] if h5py.check_string_dtype(d.dtype) else d[()] for n, d in arrays.items()}
    return values, attributes


def _restore(content: str | tuple[results.Arrays, dict[str, Any]], path: Path) -> None:
    if isinstance(content, str):
        with replacing(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    else:
        results.write(path, *content)


def _jobs(file: h5py.File) -> dict[str, h5py.Group | h5py.Dataset]:
    found = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if "status" in item.attrs or name.rpartition("/")[2] in SWEEP_FILES:
            found[name] = item

    file.visititems(visit)
    return found


def _numbers(values: np.ndarray) -> Iterator[tuple[str, str, object]]:
    """Type, index and value of each number of an array; float64 as the shortest text that gives the same bits."""
    kind = "text" if values.dtype.kind in "OU" else values.dtype.name
    for index, value in zip(np.ndindex(values.shape), values.ravel().tolist(), strict=True):
        yield kind, ";".join(map(str, index)), repr(value) if isinstance(value, float) else value


@command.command("merge")
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Merge result files into one HDF5 or CSV file, or split it again.")
    parser.add_argument("sources", nargs="*", type=command.path, help="result files and folders")
    parser.add_argument(
        "--split", type=command.path, metavar="ARCHIVE", help="write the files of an HDF5 archive to --output"
    )
    parser.add_argument(
        "--output", type=command.path, required=True, help="file to write (.h5, .csv), or folder for --split"
    )
    parser.add_argument(
        "--groups", nargs="+", default=[], help="only these groups: runs, workers, ranks, validation, …"
    )
    parser.add_argument("--checkpoints", action="store_true", help="keep what --resume and an ensemble need, too")
    given = parser.parse_args(arguments)
    if given.split:
        print(f"{split(given.split, given.output)} files in {given.output}")
        return 0
    write = {".h5": to_hdf5, ".csv": to_csv}.get(given.output.suffix)
    if write is None:
        raise ValueError(f"--output must end in .h5 or .csv, not {given.output.suffix!r}")
    found = find(given.sources)
    require_groups(found, given.groups)
    with command.naming(given.output), writing(given.output):
        write(found, given.output, given.groups, given.checkpoints)
    print(f"{sum(path.name not in SWEEP_FILES for _, path in found)} files in {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
