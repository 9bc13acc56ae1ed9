"""The result file of a job: log and checkpoint in one plain HDF5 file. Needs neither MPI nor torch.

A file is a set of named arrays and root attributes; `VARIABLES` describes the arrays of the log. Rank 0 keeps the log's
rows in memory, and each write replaces the file as a whole, so that readers, also of a running or killed job, always
see a complete file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import h5py
import numpy as np

from hpc_dmaml import plain_hdf5
from hpc_dmaml.analysis import words
from hpc_dmaml.files import Lock, add_checksum, checksum_fits, replacing
from hpc_dmaml.importing import did_you_mean
from hpc_dmaml.losses.metric import ACCURACY, Metric
from hpc_dmaml.old_names import modernised
from hpc_dmaml.plain_yaml import load_yaml
from hpc_dmaml.validity import check_arrays, check_attributes, check_content

SCHEMA = 2
READABLE = (1, SCHEMA)
"""Schemas that can be read. Schema 1 had one metric, accuracy; `upgraded` converts it to `SCHEMA`."""
NEXT_BEST = "checkpoint/next_best/"
"""Group of the best parameters after the first, if more than one is kept."""
STATUSES = ("running", "complete", "interrupted", "failed")


class Variable(NamedTuple):
    dimensions: tuple[str, ...]
    units: str
    description: str


VARIABLES = {
    "runs/run": Variable(("run",), "1", "number of the run, from 0"),
    "runs/seen_tasks": Variable(("run",), "tasks", "training tasks seen by all workers up to and including this run"),
    "runs/wall_s": Variable(("run",), "s", "time since the start, pauses between restarts left out"),
    "workers/loss": Variable(("run", "worker"), "1", "mean query loss after adaptation over the worker's tasks"),
    "workers/metric": Variable(("run", "worker"), "", "mean query metric after adaptation; NaN where there is none"),
    "workers/weight": Variable(("run", "worker"), "1", "weight of the worker's update; 0 if it was not finite"),
    "workers/work_s": Variable(("run", "worker"), "s", "time of the worker's own computation, over its ranks"),
    "ranks/work_s": Variable(("run", "rank"), "s", "time of the rank's workers"),
    "ranks/data_s": Variable(("run", "rank"), "s", "part of it: drawing tasks, and sampling trajectories"),
    "ranks/exchange_s": Variable(("run", "rank"), "s", "time of the exchange of updates, optimizer step included"),
    "ranks/wait_s": Variable(("run", "rank"), "s", "time of waiting for slower ranks in front of the exchange"),
    "ranks/validation_s": Variable(("run", "rank"), "s", "time of validation; 0 in runs without one"),
    "validation/run": Variable(("validation",), "1", "run after which this validation was made"),
    "validation/loss": Variable(
        ("validation", "step", "task"), "1", "query loss before adaptation (step 0) and after each step of it"
    ),
    "validation/metric": Variable(
        ("validation", "step", "task"), "", "query metric before adaptation (step 0) and after each step of it"
    ),
}
LATER = ("ranks/data_s",)
"""Variables that older files lack, in which they are read as NaN."""
METRICS = ("workers/metric", "validation/metric")
"""Variables whose name, unit and direction are those of the job's metric."""
SCALES = {"run": "runs/run", "worker": "workers/worker", "rank": "ranks/rank", "validation": "validation/run",
          "step": "validation/step", "task": "validation/task"}  # fmt: skip
"""The array with the coordinates along each dimension."""
DIMENSIONS = {name: variable.dimensions for name, variable in VARIABLES.items()} | {
    name: (dimension,) for dimension, name in SCALES.items()
}
RANK_TIMES = ("exchange_s", "wait_s", "validation_s")
"""Times that a rank only knows after the run, and reports with the next one."""
COUNTERS = ("runs/run", "runs/seen_tasks", "validation/run")
BLOCK_NUMBERS = 1 << 17
"""Size of the blocks, in numbers, by which the log grows in memory."""

Arrays = dict[str, np.ndarray]
Stored = TypeVar("Stored")
"""An array, or the dataset that holds it."""


def metric_attributes(metric: Metric | None) -> dict[str, str]:
    """The root attributes that describe a metric; empty texts where there is none."""
    name, unit, direction = "", "", ""
    if metric is not None:
        name, unit, direction = metric.name, metric.unit, "higher" if metric.higher_is_better else "lower"
    return {"metric": name, "metric_unit": unit, "metric_direction": direction}


def metric_in(attributes: Mapping[str, Any]) -> Metric | None:
    """The metric that root attributes describe, or None."""
    name, unit, direction = (attributes[key] for key in metric_attributes(None))
    return Metric(name, unit, direction == "higher") if name else None


def upgraded(arrays: Mapping[str, Stored], attributes: Mapping[str, Any]) -> tuple[dict[str, Stored], dict[str, Any]]:
    """Convert arrays and root attributes of any readable schema to `SCHEMA`."""
    if attributes.get("schema") != 1:
        return dict(arrays), dict(attributes)
    moved = {name.replace("metric", "accuracy"): name for name in METRICS}
    metric = ACCURACY if str(attributes.get("loss")) == "cross_entropy" else None
    told = {**attributes, "schema": np.int64(SCHEMA), **metric_attributes(metric)}
    return {moved.get(name, name): array for name, array in arrays.items()}, told


class Rows:
    """An array (n, …) that grows by rows, in blocks that are never copied, as there may be millions of rows."""

    def __init__(self, first: np.ndarray) -> None:
        self._full: list[np.ndarray] = []
        self._block, self._used, self._rows = first, len(first), len(first)

    def append(self, row: Any) -> None:
        if self._used == len(self._block):
            self._full.append(self._block)
            shape = self._block.shape[1:]
            self._block = np.empty((max(1, BLOCK_NUMBERS // max(1, math.prod(shape))), *shape), self._block.dtype)
            self._used = 0
        self._block[self._used] = row
        self._used += 1
        self._rows += 1

    @property
    def blocks(self) -> list[np.ndarray]:
        return [*self._full, self._block[: self._used]]

    @property
    def last(self) -> np.ndarray:
        """The last row, to be changed in place."""
        return self._block[self._used - 1]

    def __len__(self) -> int:
        return self._rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self.blocks, dtype=dtype)


class Log:
    """The rows of all runs and validations so far."""

    def __init__(self, sizes: Mapping[str, int], rows: Mapping[str, np.ndarray] | None = None) -> None:
        """`sizes` of the dimensions worker, rank, step and task; `rows` of a log to continue."""
        self.sizes = dict(sizes)
        self.rows: dict[str, Rows] = {}
        for name, variable in VARIABLES.items():
            kind = np.int64 if name in COUNTERS else np.float64
            empty = np.empty((0, *(self.sizes[d] for d in variable.dimensions[1:])), kind)
            self.rows[name] = Rows(self._fit(name, np.asarray((rows or {}).get(name, empty), kind)))

    def _fit(self, name: str, values: np.ndarray) -> np.ndarray:
        """Pad the rank dimension where a resume changed the number of ranks; padding is NaN."""
        if "rank" not in VARIABLES[name].dimensions or values.shape[1] == self.sizes["rank"]:
            return values
        width = max(self.sizes["rank"], values.shape[1])
        self.sizes["rank"] = width
        return np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=np.nan)

    def __len__(self) -> int:
        return len(self.rows["runs/run"])

    def append(self, values: Mapping[str, Any]) -> None:
        """Append one row of some variables; rows of ranks are padded with NaN."""
        for name, value in values.items():
            if name.startswith("ranks/") and len(value) < self.sizes["rank"]:
                value = np.pad(value.astype(float), (0, self.sizes["rank"] - len(value)), constant_values=np.nan)
            self.rows[name].append(value)

    def complete_times(self, times: np.ndarray) -> None:
        """Fill in the last run's `RANK_TIMES`, (R, 3)."""
        for name, column in zip(RANK_TIMES, times.T, strict=True):
            self.rows[f"ranks/{name}"].last[: len(column)] = column

    def arrays(self) -> dict[str, Rows | np.ndarray]:
        """Every variable, and the scales of the dimensions."""
        scales = {SCALES[d]: np.arange(self.sizes[d]) for d in ("worker", "rank", "step", "task")}
        return {**self.rows, **scales}


class _Unfailing(io.RawIOBase):
    """A file for HDF5, which would hang or crash on an error in writing, or where it does not read what it has written:
    the first error is kept, and from then on what is written is kept in memory."""

    def __init__(self, file: io.RawIOBase) -> None:
        """`file` has no buffer, so that only a write can fail."""
        self._file, self._place = file, 0
        self._kept: list[tuple[int, bytes]] = []
        """Places and bytes."""
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the error, if there was one."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        left = memoryview(data)
        try:
            while self._error is None and len(left):  # a disk that becomes full takes a part
                left = left[self._file.write(left) :]
        except OSError as error:
            self._error = error
        if self._error is not None:
            self._kept.append((self._place, bytes(data)))
        self._place += len(data)
        return len(data)

    def readinto(self, buffer: Any) -> int:
        view, start = memoryview(buffer), self._place
        count = self._file.readinto(view) or 0
        for place, data in self._kept:
            first, end = max(place, start), min(place + len(data), start + len(view))
            if first < end:
                view[first - start : end - start] = data[first - place : end - place]
                count = max(count, end - start)
        self._place += count
        return count

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        self._place = self._file.seek(place, whence)
        if whence == io.SEEK_END:
            self._place = max([self._place, *(at + len(data) + place for at, data in self._kept)])
        return self._place

    def truncate(self, size: int | None = None) -> int:
        return size or 0


def write(path: Path, arrays: Mapping[str, Any], attributes: Mapping[str, Any], lock: Lock | None = None) -> None:
    """Replace the file at `path`. Raises OSError where that is impossible, Taken where `lock` on it was lost; the old
    file is then kept."""
    with replacing(path, lock) as temporary:
        with creating(temporary) as (content, _):
            _fill(content, arrays, attributes)
        add_checksum(temporary)


@contextmanager
def creating(path: Path, libver: tuple[str, str] | None = None) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """A new HDF5 file, in a format that `libver` may choose. Raises OSError where it cannot be written, as on a full disk,
    at which HDF5 itself may crash; a long block asks for that now and then by the function that comes with the file."""
    with path.open("w+b", buffering=0) as file:
        target = _Unfailing(file)
        with h5py.File(target, "w", libver=libver) as content:
            yield content, target.check
        target.check()


def _fill(file: h5py.File, arrays: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    for name, values in arrays.items():
        if isinstance(values, Rows):
            blocks = values.blocks
            dataset = file.create_dataset(name, (len(values), *blocks[0].shape[1:]), blocks[0].dtype)
            start = 0
            for block in blocks:
                dataset[start : start + len(block)] = block
                start += len(block)
        else:
            dataset = file.create_dataset(name, data=values)
        if name in VARIABLES:
            dataset.attrs["units"] = VARIABLES[name].units
            dataset.attrs["description"] = VARIABLES[name].description
    name, unit, direction = (attributes.get(key, "") for key in metric_attributes(None))
    for path in METRICS:
        told = VARIABLES[path].description.replace("metric", str(name) or "metric")
        file[path].attrs.update({"name": name, "units": unit, "direction": direction, "description": told})
    for dimension, name in SCALES.items():
        file[name].make_scale(dimension)
    for name, variable in VARIABLES.items():
        for axis, dimension in enumerate(variable.dimensions):
            file[name].dims[axis].label = dimension
            if SCALES[dimension] != name:
                file[name].dims[axis].attach_scale(file[SCALES[dimension]])
    file.attrs.update({"schema": SCHEMA, **attributes})


@dataclass(frozen=True)
class Results:
    """The content of a result file when it was read."""

    path: Path
    attributes: dict[str, Any]
    arrays: Arrays
    """Every array by its path in the file, such as "workers/loss"."""

    def __repr__(self) -> str:
        """Three lines: the file, the job, and its last validation."""
        parts = [self.config.get(name) for name in ("task", "model", "algorithm", "optimizer", "weight_generator")]
        job = [str(each["class_path"]) for each in parts if isinstance(each, dict) and "class_path" in each]
        lines = (
            f"{self.path}: {self._progress()}",
            f"{', '.join(job)}, seed {self.attributes['seed']}",
            self._outcome(),
        )
        return "\n".join(words.printable(line, 500) for line in lines)

    def _progress(self) -> str:
        """Status, runs and wall time in words."""
        runs, wall_s = (self.arrays.get(name, np.empty(0)) for name in ("runs/run", "runs/wall_s"))
        if not len(runs) or not len(wall_s):
            return self.status
        return f"{self.status}, {runs[-1] + 1:,} of {self.config.get('runs')} runs in {words.clock(wall_s[-1])}"

    def _outcome(self) -> str:
        """The last validation: means over its tasks, before adaptation and after each step of it."""
        stored = "loss" if self.metric is None else "metric"
        values, runs = (self.arrays.get(f"validation/{each}") for each in (stored, "run"))
        if values is None or runs is None:
            return "validations were not read"
        if not values.size:
            return "no validation yet"
        curve = words.curve(values[-1].mean(1), self.metric)
        return f"validation {curve}, before adaptation and after each step of it, after run {runs[-1] + 1:,}"

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        """An array by its path. Raises ValueError, listing what there is, where there is none."""
        if name not in self.arrays:
            group = f"{name}".partition("/")[0] + "/"
            there = [each for each in self.arrays if each.startswith(group)] or list(self.arrays)
            near = did_you_mean(f"{name}", there)
            raise ValueError(f"{self.path} holds no {name}; there are {words.some(there, 20) or 'no arrays'}{near}")
        return self.arrays[name]

    def attribute(self, name: str) -> Any:
        """A root attribute. Raises ValueError where there is none."""
        if name not in self.attributes:
            raise ValueError(f"{self.path} has no attribute {name}")
        return self.attributes[name]

    @property
    def status(self) -> str:
        """running, complete, interrupted or failed, as it was when the file was written."""
        return str(self.attributes["status"])

    @cached_property
    def config(self) -> dict[str, Any]:
        """The job's whole configuration, under the current names."""
        return modernised(load_yaml(self.attributes["config"]))

    @property
    def metric(self) -> Metric | None:
        """The metric by which the job's tasks are judged besides their loss, or None."""
        return metric_in(self.attributes)

    def state(self) -> Results:
        """What all ranks of a job need to resume it: without the best parameters, and only the log's last row."""
        best = ("meta_model/best_parameters", NEXT_BEST)
        kept = {n: a[-1:] if n in VARIABLES else a for n, a in self.arrays.items() if not n.startswith(best)}
        return replace(self, arrays=kept)

    def group(self, prefix: str) -> Arrays:
        """The arrays below a group, by the rest of their names."""
        return {name.removeprefix(prefix): a for name, a in self.arrays.items() if name.startswith(prefix)}


def read(path: str | Path, *groups: str, verify: bool = False) -> Results:
    """Read a file: all of it, or the arrays of some groups ("workers", "validation", …).

    A file that was damaged since it was written is refused, and so is one whose content is not what `write` writes,
    and, with `verify`, one that another program has changed. Raises ValueError, naming the file.
    """
    path = Path(path)
    try:
        size, written = path.stat().st_size, path.stat().st_blocks * 512
        if size > 2**30 and written < size // 8:  # its checksum would take minutes
            raise ValueError(f"of its {size} bytes most were never written")
        fits = checksum_fits(path)
        if fits is False:
            raise ValueError("it was damaged after it was written: its content does not match its checksum")
        if verify and fits is None:
            raise ValueError("it was cut off, or changed by another program, or is not one of ours: it has no checksum")
        plain_hdf5.check_heaps(path)
        with plain_hdf5.opened(path) as file:
            attributes = plain_hdf5.attributes(file)
            schema = attributes.get("schema")
            ours = isinstance(schema, np.integer) and schema in READABLE and attributes.get("status") in STATUSES
            arrays: Arrays = {}
            if ours:
                found, attributes = upgraded(plain_hdf5.datasets(file), attributes)
                check_arrays(found, {n: d for n, d in DIMENSIONS.items() if n in found or n not in LATER})
                arrays = {n: plain_hdf5.values(d) for n, d in found.items() if not groups or n.split("/")[0] in groups}
        if "ranks/work_s" in arrays:
            arrays = {**{name: np.full(arrays["ranks/work_s"].shape, np.nan) for name in LATER}, **arrays}
        if ours:
            check_attributes(attributes)
            check_content(arrays)
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except Exception as error:  # a damaged file makes HDF5 fail in many ways
        raise ValueError(f"{path} is not a readable result file: {' '.join(str(error).split())}") from error
    if not ours:
        if "content" in attributes:  # see analysis.merge
            raise ValueError(f"{path} is an archive of results: hpc_dmaml merge --split {path} --output FOLDER")
        raise ValueError(f"{path} is an HDF5 file, but not a result of this version (schema {str(schema)[:9]!r})")
    return Results(path, attributes, arrays)
