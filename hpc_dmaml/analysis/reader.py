"""Read any number of result files, folders and sweeps into tidy tables. Needs pandas, and neither MPI nor torch.

    found = reader.read(["results/scaling"])                 # the jobs, and notes on what is missing
    table = reader.table(found.jobs, "validation", by=["scaling"])
    table.columns   # job, scaling, seed, run, seen_tasks, wall_s, step, loss, metric

Running and interrupted jobs are included with the data that they have; `Collection.notes` lists them, files that could
not be read, and missing points of a sweep.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpc_dmaml import config, results
from hpc_dmaml import sweep as sweeps
from hpc_dmaml.analysis import checked, stats
from hpc_dmaml.analysis.words import some
from hpc_dmaml.files import expanded
from hpc_dmaml.losses.metric import Metric
from hpc_dmaml.old_names import modern
from hpc_dmaml.plain_yaml import flow_yaml
from hpc_dmaml.sweep import Point
from hpc_dmaml.sweep.states import differing

GROUPS = ("runs", "workers", "ranks", "validation")
REPEATS = {*config.REPEATS, "runs", "validation.keep"}
"""Fields in which the repetitions of one setting may differ, including jobs that have not come as far."""
LOG = (*GROUPS, "trajectories")
"""Groups whose arrays are kept, so that a report does not read each file a dozen times."""
KEPT = 2**30
"""Most bytes of logs that are kept in memory; further ones are read again each time."""


@dataclass(frozen=True, eq=False)
class Job:
    """A result file: its attributes, its configuration and, unless there are too many, the arrays of its log."""

    path: Path
    attributes: Mapping[str, Any]
    """Root attributes: status, start, end, versions, git_commit, outputs, restarts, best_run, best_score, …"""
    config: Mapping[str, Any]
    """The stored configuration, under the current names."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """In a sweep: its axes with this point's values or labels."""
    log: results.Results | None = field(default=None, repr=False)
    """The arrays of `LOG` as they were read at first, if they are kept."""

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The configuration, flat: "optimizer" is the class, "optimizer.lr" its rate; lists are tuples. Besides, "data" is
        the beginning of its digest, where the file has one."""
        digest = str(self.attributes.get("data", ""))
        return _flat(self.config) | ({"data": digest[:8]} if digest else {})

    @cached_property
    def ranks(self) -> int:
        """Number of ranks that it ran on, at its last start if a resume changed it."""
        return len(self.read("ranks")["ranks/host"])

    @cached_property
    def steps(self) -> int:
        """Number of adaptation steps of its validation."""
        return self.read("validation")["validation/loss"].shape[1] - 1

    @property
    def status(self) -> str:
        """running, complete, interrupted or failed."""
        return str(self.attributes["status"])

    @property
    def seed(self) -> int:
        return int(self.fields["seed"])

    @property
    def tasks_of_a_run(self) -> int:
        """Number of training tasks of a run, over all workers and epochs."""
        return self.fields["workers"] * self.fields["epochs"] * self.fields["tasks"]

    @property
    def metric(self) -> Metric | None:
        """The metric by which its tasks are judged besides their loss, or None."""
        return results.metric_in(self.attributes)

    @property
    def chance(self) -> float | None:
        """The accuracy of guessing, or None outside classification."""
        return checked.chance(self.attributes)

    def value(self, name: str) -> Any:
        """Its setting on a sweep's axis, else the field of its configuration, or its number of "ranks"; None if it has
        no such field."""
        name = modern(name)
        if name == "ranks":
            return self.ranks
        return self.settings[name] if name in self.settings else self.fields.get(name)

    def read(self, *groups: str) -> results.Results:
        """At least the arrays of some groups. Raises ValueError, naming the file."""
        return self.log if self.log and set(groups) <= set(LOG) else results.read(self.path, *groups)


@dataclass(frozen=True)
class Collection:
    """Jobs, notes on them, and their sweeps."""

    jobs: tuple[Job, ...]
    """Those of a sweep in its order, then others by path."""
    notes: tuple[str, ...]
    """Sentences on what could not be read, is incomplete, is missing, or contradicts itself."""
    sweeps: tuple[sweeps.Sweep, ...] = ()
    folder: Path = Path()
    """The folder of the first source's files."""

    @property
    def title(self) -> str:
        """The description of the sweep whose points all the jobs are; else empty."""
        if len(self.sweeps) != 1:
            return ""
        outputs = _outputs(self.sweeps[0])
        return self.sweeps[0].description if all(job.path.resolve() in outputs for job in self.jobs) else ""

    @property
    def axes(self) -> list[str]:
        """Names of the sweeps' axes, in order."""
        return list(dict.fromkeys(modern(name) for sweep in self.sweeps for name in sweep.axes))

    def every(self, by: Sequence[str]) -> list[tuple[Any, ...]]:
        """All settings of the sweeps by the axes `by`, including those without files."""
        points = [settings_of(point) for sweep in self.sweeps for point in sweep.points]
        names = [modern(name) for name in by]
        return [tuple(point[n] for n in names) for point in points if names and all(n in point for n in names)]

    def missing(self) -> list[Point]:
        """The points of the sweeps that have no file."""
        return [point for sweep in self.sweeps for point in sweep.points if not point.output.exists()]


class Whole(str):
    """A dictionary among a class's own fields, in words."""


def read(sources: Iterable[str | Path]) -> Collection:
    """Read files, folders (with all below them) and sweeps (by their YAML file).

    Raises ValueError where there is no file, or none that can be read.
    """
    paths, found, lost, folder = _find(sources)
    jobs, notes = [], list(lost)
    points = {point.output.resolve(): point for sweep in found for point in sweep.points}
    unreadable, room = [], KEPT
    for path in paths:
        try:
            source = checked.read(path, *LOG)
            room -= sum(array.nbytes for array in source.arrays.values())
            job = Job(path, source.attributes, source.config, log=source if room >= 0 else None)
        except ValueError as error:
            unreadable.append(str(error))
            continue
        point = points.get(path.resolve())
        if point is not None:
            job = replace(job, settings=settings_of(point))
            wrong = differing(point.fields, job.config)
            if wrong:  # the file's own configuration is the correct one
                notes.append(f"{path.name} was run with other settings than its sweep.yaml has: {some(wrong)}")
        jobs.append(job)
    if not jobs:
        raise ValueError(some(unreadable, 3))
    order = {path: place for place, path in enumerate(points)}
    jobs.sort(key=lambda job: order.get(job.path.resolve(), len(order)))
    notes += [f"left out: {message}" for message in unreadable]
    for status in ("running", "interrupted", "failed"):
        names = [job.path.name for job in jobs if job.status == status]
        if names:
            notes.append(f"{status}, shown as far as it got: {some(names)}")
    for sweep in found:
        notes += _unlike(sweep, jobs)
        missing = [point.name for point in sweep.points if not point.output.exists()]
        if missing:
            notes.append(
                f"sweep {sweep.name}: {len(missing)} of {len(sweep.points)} points are missing: {some(missing)}"
            )
    return Collection(tuple(jobs), tuple(notes), found, folder)


def _outputs(sweep: sweeps.Sweep) -> set[Path]:
    """The files of a sweep's points."""
    return {point.output.resolve() for point in sweep.points}


def _unlike(sweep: sweeps.Sweep, jobs: Sequence[Job]) -> list[str]:
    """A note where a sweep's jobs differ in fields that its points do not set: it was changed between them."""
    outputs = _outputs(sweep)
    own = [job for job in jobs if job.path.resolve() in outputs]
    sets = {*config.DECIDED, "data"} | {modern(name) for point in sweep.points for name in point.fields}

    def is_set(name: str) -> bool:  # itself, or what it is a part of, or, of a dictionary, a part of it
        return any(f"{name}.".startswith(f"{each}.") or ("." in name and each.startswith(f"{name}.")) for each in sets)

    odd = [name for name in varying(own) if not is_set(name)]
    return [f"the files of sweep {sweep.name} differ in {some(odd)}, which its points do not set"] if odd else []


def settings_of(point: Point) -> dict[str, Any]:
    """A point's place on its sweep's axes, under the current names."""
    return {modern(name): value for name, value in point.settings.items()}


def table(
    jobs: Sequence[Job], group: str, variables: Iterable[str] = (), by: Iterable[str] = (), each_task: bool = False
) -> pd.DataFrame:
    """A tidy table: a row for each job and each place along the group's dimensions.

    group       columns, besides job (the file's path), `by` and seed
    runs        run, seen_tasks, wall_s
    workers     run, worker, loss, metric, weight, work_s
    ranks       run, rank, work_s, exchange_s, wait_s, validation_s
    validation  run, seen_tasks, wall_s, step, loss, metric; means over the tasks, or `each_task` with a column task

    `variables`: only these of the value columns. `by`: axes of a sweep or fields of the configuration, as columns.
    Times in seconds, wall_s since the start, run from 0. Raises ValueError.
    """
    if group not in GROUPS:
        raise ValueError(f"there is no table {group!r}; there are {', '.join(GROUPS)}")
    variables, by = tuple(variables), tuple(dict.fromkeys(by))
    parts = [_rows(job, group, variables, each_task) for job in jobs]
    lengths = [len(part["run"]) for part in parts]
    columns: dict[str, Any] = {"job": _repeat([str(job.path) for job in jobs], lengths)}
    for name in (*by, *(["seed"] if "seed" not in by else [])):
        columns[name] = _repeat([job.seed if name == "seed" else job.value(name) for job in jobs], lengths)
    for name in list(parts[0]):
        columns[name] = np.concatenate([part.pop(name) for part in parts])
    return pd.DataFrame(columns, copy=False)


def varying(jobs: Sequence[Job]) -> list[str]:
    """The fields of the configuration in which jobs differ, except `REPEATS` and fields that only some jobs' classes
    have and in which those agree. Different data is named by its place, if that says which it is."""
    names = dict.fromkeys(name for job in jobs for name in job.fields)
    sets = {name: {job.fields[name] for job in jobs if name in job.fields} for name in names}
    found = [name for name, values in sets.items() if len(values) > 1 and name not in REPEATS]
    for whole in [name for name in found if any(isinstance(value, Whole) for value in sets[name])]:
        parts = [name for name in found if name.startswith(f"{whole}.")]
        told = {tuple(job.fields.get(name) for name in parts) for job in jobs}
        if len(told) == len({job.fields.get(whole) for job in jobs}):
            found.remove(whole)  # its parts tell the jobs apart, and are shorter
        else:
            found = [name for name in found if name not in parts]
    if "data" in found:
        places = [name for name in ("task.root", "task.path") if len(sets.get(name, ())) == len(sets["data"])]
        found = list(dict.fromkeys([*(name for name in found if name != "data"), *(places or ["data"])]))
    return found


def grouped(jobs: Sequence[Job], by: Sequence[str]) -> dict[tuple[Any, ...], list[Job]]:
    """The jobs of each setting, in the sweep's order, or ordered by value where there is no sweep.

    Raises ValueError where a name in `by` is not a field, or where jobs of one setting differ in more than their seeds,
    so that their mean would be meaningless.
    """
    for name in by:
        known = dict.fromkeys(n for job in jobs for n in ("ranks", *job.settings, *job.fields))
        if modern(name) not in known:
            near = difflib.get_close_matches(name, known, 3)
            hint = (
                f"did you mean {' or '.join(near)}?"
                if near
                else f"these tell the files apart: {some(varying(jobs)) or 'none'}"
            )
            raise ValueError(f"no file has a field {name!r}; {hint}")
    groups: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(tuple(job.value(name) for name in by), []).append(job)
    if not any(name in job.settings for job in jobs for name in by):
        groups = dict(sorted(groups.items(), key=lambda item: [_order(value) for value in item[0]]))
    for key, members in groups.items():
        differing = varying(members)
        if differing:
            setting = ", ".join(f"{n} {v}" for n, v in zip(by, key, strict=True)) or "all files together"
            raise ValueError(
                f"different experiments are mixed: {setting}: {len(members)} files differ in {some(differing)}; "
                f"give fewer files, or tell them apart with --by {differing[0]}"
            )
    return groups


def numbers_of_ranks(jobs: Iterable[Job]) -> list[str]:
    """On how many ranks the jobs ran, each number once, in order."""
    return list(map(str, sorted({job.ranks for job in jobs})))


def _find(sources: Iterable[str | Path]) -> tuple[list[Path], tuple[sweeps.Sweep, ...], list[str], Path]:
    """Result files, sweeps, notes on sweeps that cannot be read, and the folder of the first source's files."""
    paths: dict[Path, Path] = {}
    found: dict[Path, sweeps.Sweep] = {}
    notes: list[str] = []
    places: list[Path] = []
    known: dict[Path, sweeps.Sweep | None] = {}
    given = [expanded(source) for source in sources]
    if not given:
        raise ValueError("give result files, folders of them, or a sweep")
    for source in given:
        if source.suffix in (".yaml", ".yml"):
            source = sweeps.load(source).folder
        if not source.exists():
            raise ValueError(f"there is no file or folder {source}")
        files = sorted(source.rglob("*.h5")) if source.is_dir() else [source]
        for path in files:
            paths.setdefault(path.resolve(), path)
        places.append(source if source.is_dir() else source.parent)
        folders = {places[-1], *(path.parent for path in files)}
        for folder in sorted(folders):
            if folder not in known:
                known[folder] = None
                try:
                    known[folder] = sweeps.read_folder(folder) if (folder / "sweep.yaml").exists() else None
                except ValueError as error:
                    notes.append(f"left out: {error}")
            sweep = known[folder]
            if sweep and (source.is_dir() or source.resolve() in _outputs(sweep)):
                found[folder] = sweep
    if not paths:
        raise ValueError(f"no result file (*.h5) in {some([str(source) for source in given])}")
    return list(paths.values()), tuple(found.values()), notes, places[0]


def _flat(content: Mapping[Any, Any], prefix: str = "", of_class: bool = False) -> dict[str, Any]:
    """Fields by their names on the command line. A dictionary among a class's own fields, such as `model.arguments`, is
    also a field as a whole: one with other keys, or none, is another setting."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and "class_path" in value:
            flat[name] = _hashable(value["class_path"])
            below = value.get("init_args")
            flat |= _flat(below if isinstance(below, dict) else {}, f"{name}.", of_class=True)
        elif isinstance(value, dict):
            if of_class:
                flat[name] = Whole(flow_yaml(sweeps.canonical(value))[1:-1] or f"no {key}")
            flat |= _flat(value, f"{name}.", of_class)
        else:
            flat[name] = _hashable(value)
    return flat


def _hashable(value: Any) -> Any:
    """A list as a tuple; as text a value that is not plain, NaN, or a number that is too large for a float."""
    if isinstance(value, list):
        return tuple(map(_hashable, value))
    plain = value is None or isinstance(value, str | bool | int | float)
    odd = isinstance(value, int | float) and not abs(value) < 2.0**1023
    return str(value) if odd or not plain else value


def _rows(job: Job, group: str, variables: tuple[str, ...], each_task: bool) -> dict[str, np.ndarray]:
    """The columns of one job."""
    source = job.read(group, "runs")
    wanted = [n.partition("/")[2] for n in results.VARIABLES if n.startswith(f"{group}/") and not n.endswith("/run")]
    unknown = set(variables) - set(wanted)
    if unknown:
        raise ValueError(f"the table {group} has no column {some(sorted(unknown))}; it has {', '.join(wanted)}")
    wanted = [name for name in wanted if not variables or name in variables]
    arrays = {name: source[f"{group}/{name}"] for name in wanted}
    runs = source["runs/run"].astype(np.int32)
    if group == "runs":
        return {"run": runs, **arrays}
    if group == "validation":
        own = source["validation/run"]
        rows = np.searchsorted(runs, own)
        index = {"run": own.astype(np.int32), **{n: source[f"runs/{n}"][rows] for n in ("seen_tasks", "wall_s")}}
        dimensions = ["step", "task"]
        if not each_task:
            arrays = {name: stats.over_tasks(values) for name, values in arrays.items()}
            dimensions = ["step"]
    else:
        index, dimensions = {"run": runs}, [group.removesuffix("s")]
    shape = next(iter(arrays.values())).shape
    inner = int(np.prod(shape[1:]))
    columns = {name: np.repeat(values, inner) for name, values in index.items()}
    for axis, name in enumerate(dimensions, 1):
        numbers = np.arange(shape[axis], dtype=np.int32)
        columns[name] = np.broadcast_to(numbers.reshape(-1, *[1] * (len(shape) - 1 - axis)), shape).ravel()
    return {**columns, **{name: values.ravel() for name, values in arrays.items()}}


def _repeat(values: Sequence[Any], lengths: Sequence[int]) -> pd.Categorical:
    """Repeat each value `lengths` times, as categories (to save memory) in order of appearance; None becomes NaN."""
    categories = [value for value in dict.fromkeys(values) if value is not None]
    numbers = {None: -1, **{value: code for code, value in enumerate(categories)}}
    codes = np.repeat(np.array([numbers[value] for value in values], np.int32), lengths)
    return pd.Categorical.from_codes(codes, pd.Index(categories, tupleize_cols=False))


def _order(value: Any) -> tuple[bool, float, str]:
    """Sort key: numbers by size, then everything else by name."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return not number, float(value) if number else 0.0, "" if number else str(value)
