"""A sweep: one experiment of many jobs, described by one YAML file. Reading it needs neither MPI nor torch.

    python -m hpc_dmaml.sweep slurm/sweeps/demo.yaml              list its points: index, name, ranks, state, output
    python -m hpc_dmaml.sweep slurm/sweeps/demo.yaml --missing    those that are not complete, running or waiting
    python -m hpc_dmaml.sweep slurm/sweeps/demo.yaml --index 3    run one, also under mpirun or srun
    python -m hpc_dmaml.sweep slurm/sweeps/demo.yaml --local      run the missing ones, one after another

A folder of results can be given instead of the sweep's file, of which it holds a copy, `sweep.yaml`. `slurm/submit.py`
submits a sweep to SLURM.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from hpc_dmaml import config as configuration
from hpc_dmaml import placement
from hpc_dmaml.analysis.words import some
from hpc_dmaml.files import expanded, locked, replacing, there_is
from hpc_dmaml.importing import did_you_mean
from hpc_dmaml.old_names import modern
from hpc_dmaml.plain_yaml import flow_yaml
from hpc_dmaml.sweep import document

KEYS = {"name", "description", "config", "set", "grid", "seeds", "ranks", "figures"}
NOT_SET = {"seed", "output", "resume", "config", "help", "print_config"}
"""Options of the command line that a sweep may not set."""
COPY = "sweep.yaml"
"""Name of the copy of a sweep's file in its folder of results."""
BASE = "config.yaml"
"""Name of the copy of the YAML file that its `config` names, beside it."""
LONGEST_NAME = 200
"""Most bytes of a point's name: file systems take 255, and temporary files beside a point's file have longer names."""
MOST_POINTS = 100_000


@dataclass(frozen=True)
class Point:
    """One job of a sweep."""

    index: int
    """Place in the list of points, from 0."""
    settings: dict[str, Any]
    """The point's place on each axis: the field's value, or the label."""
    seed: int
    fields: dict[str, Any]
    """All fields that it sets on top of the sweep's `config`, seed included, by their names on the command line."""
    ranks: int
    name: str
    """Made of settings and seed, usable as a file name, and independent of the other points."""
    output: Path

    def arguments(self, config: str | None) -> list[str]:
        """Its arguments of `python -m hpc_dmaml`; `config`: the sweep's, which its fields override."""
        chosen = sorted(self.fields, key=lambda name: name.count("."))  # a class comes before its own fields
        words = [] if config is None else [f"--config={config}"]
        return words + [f"--{name}={_argument(self.fields[name])}" for name in chosen]

    def __str__(self) -> str:
        """Its settings as written in the sweep, on one line."""
        settings = {**self.settings, "seed": self.seed}
        return " ".join(",".join(f"{axis}={value}" for axis, value in settings.items()).split())


@dataclass(frozen=True)
class Sweep:
    name: str
    description: str
    path: Path
    """The YAML file."""
    folder: Path
    """Where the points' files go."""
    config: str | None
    """Preset or YAML file that all points start from."""
    axes: tuple[str, ...]
    """The axes in the file's order, without the seed."""
    points: tuple[Point, ...]
    figures: tuple[str, ...]
    """Figures to draw from its results: their numbers in the thesis, or names."""

    def point(self, key: int | str) -> Point:
        """A point by index or name. Raises ValueError."""
        for point in self.points:
            if key in (point.index, point.name):
                return point
        number = len(self.points)
        what = f"index: there is no point {key}; there are {number}, 0 to {number - 1}"
        raise ValueError(f"{self.path}: {what if isinstance(key, int) else f'there is no point named {key!r}'}")

    def parse(self, point: Point) -> configuration.RunConfig:
        """The configuration with which a point starts or resumes. Raises ValueError, also where its file was started
        with a field that the sweep no longer sets."""
        wanted = self.described(point)
        with self._naming(point):
            arguments = [*point.arguments(self.config), "--resume=auto", f"--output={point.output}"]
            config = configuration.parse(arguments)
            if config.resume is None:
                return replace(wanted, output=config.output)
            configuration.check_goes_on(config.resume, config, wanted)
        # The rest is the file's, but what may change is as the sweep has it now, also where it is left out.
        return replace(config, **{name: getattr(wanted, name) for name in configuration.MAY_CHANGE})

    def described(self, point: Point) -> configuration.RunConfig:
        """The configuration that the sweep describes for a point, whatever its file holds, with what set-up decides by
        ranks and runs. Raises ValueError."""
        with self._naming(point):
            config = configuration.parse(point.arguments(self.config))
            for message in _retyped("", point.fields, config):
                raise ValueError(message)
        return replace(config, workers=config.workers or point.ranks, schedule=config.schedule.over(config.runs))

    @contextmanager
    def _naming(self, point: Point) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.path}: point {point.name}: {error}") from error

    def check(self) -> None:
        """Raise ValueError for the first point that could not run, or for figures that do not exist. Of points that differ
        only in seed, check one."""
        if self.figures:
            with suppress(ModuleNotFoundError):  # of the analysis, which then draws none
                from hpc_dmaml.analysis.figures import FIGURES

                for name in self.figures:
                    if name not in FIGURES:
                        near = did_you_mean(name, FIGURES)
                        raise ValueError(f"{self.path}: figures: there is no figure {name!r}{near}")
        seen = []
        for point in self.points:
            if point.settings in seen:
                continue
            seen.append(point.settings)
            config = self.described(point)
            with self._naming(point):
                placement.check(point.ranks, config.workers or point.ranks, config.tasks)

    def copy(self) -> None:
        """Copy the file, and a YAML file that all points start from, into the folder of results, so that the folder
        alone describes the sweep. Raises ValueError where it cannot be written."""
        target, base = self.folder / COPY, self.folder / BASE
        try:
            with locked(target):  # many points may start at once
                self._warn_of_others()
                if self.config is None or self.config in configuration.presets():
                    base.unlink(missing_ok=True)
                else:
                    _copy(configuration.preset(self.config), base)
                _copy(self.path, target)
        except OSError as error:
            raise ValueError(f"results: cannot write {target}: {error}") from error

    def _warn_of_others(self) -> None:
        """Print which results in the folder belong to another sweep of this name, or to points that it no longer has."""
        old = self.folder / COPY
        if not old.exists() or old.read_bytes() == self.path.read_bytes():  # as for all points but the first
            return
        try:
            before = read_folder(self.folder)
        except ValueError:
            return
        own = {point.name for point in self.points}
        others = [point.name for point in before.points if point.name not in own and point.output.exists()]
        if others:
            print(
                f"warning: {self.folder} holds results that are no points of {self.path}: {some(others)}. For another "
                "sweep, give another name or --results",
                file=sys.stderr,
            )


def load(path: str | Path, results: str | Path = "results") -> Sweep:
    """Load the sweep of a YAML file, whose results go to `results`/NAME, or of a folder of results or the copy in it.

    Raises ValueError, naming file and field. The fields' values are checked by `Sweep.check`, which takes longer.
    """
    path = expanded(path)
    if there_is("sweep", path) and path.is_dir():
        return read_folder(path)
    if path.name == COPY and any(path.parent.glob("*.h5")):
        return read_folder(path.parent)
    content = _content(path)
    name = _name(path, content, path.stem)
    return _sweep(path, content, name, expanded(results) / name)


def read_folder(folder: str | Path) -> Sweep:
    """Load the sweep whose results a folder holds. Raises ValueError."""
    folder = Path(folder)
    path = folder / COPY
    content = _content(path)
    base = content.get("config")
    if base is not None and base not in configuration.presets() and (folder / BASE).exists():
        content["config"] = str(folder / BASE)
    name = _name(path, content, "") if "name" in content else folder.resolve().name
    return _sweep(path, content, name, folder)


def _content(path: Path) -> dict[str, Any]:
    content = document.read(path, "sweep")
    for key in content:
        _require(key in KEYS, path, "unknown key", key, f"one of {', '.join(sorted(KEYS))}")
    return content


def _name(path: Path, content: Mapping[str, Any], default: str) -> str:
    """The sweep's name, usable for a folder: the one in the file, else the default."""
    name = content.get("name", default)
    fit = isinstance(name, str) and _slug(name) == name and name.strip(".") and len(name) <= LONGEST_NAME
    _require(fit, path, "name", name, f"letters, digits and _-., {LONGEST_NAME} at most")
    return str(name)


def _sweep(path: Path, content: dict[str, Any], name: str, folder: Path) -> Sweep:
    description = content.get("description", name)
    _require(isinstance(description, str), path, "description", description, "text")
    config = content.get("config")
    _require(config is None or isinstance(config, str), path, "config", config, "a preset's name or a YAML file")
    figures = content.get("figures", [])
    quoted = isinstance(figures, list) and all(isinstance(f, str) and f and _slug(f) == f for f in figures)
    _require(quoted, path, "figures", figures, "a list of quoted numbers ('6.10' is not 6.1) or names")
    seeds = canonical(content.get("seeds", [0]))
    whole = isinstance(seeds, list) and seeds and all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds)
    _require(whole, path, "seeds", seeds, "a list of whole numbers, at least one, none negative or above 2**63 - 1")
    common = _fields(path, "set", content.get("set", {}))
    axes = {axis: _axis(path, axis, values) for axis, values in _mapping(path, "grid", content).items()}
    number = math.prod(map(len, axes.values())) * len(seeds)
    _require(number <= MOST_POINTS, path, "grid", f"{number:,}", f"of {MOST_POINTS:,} points at most")
    points: list[Point] = []
    for chosen in itertools.product(*axes.values()):
        settings = {axis: value for axis, (value, _) in zip(axes, chosen, strict=True)}
        fields, taken = dict(common), set[str]()
        for axis, (_, changed) in zip(axes, chosen, strict=True):
            names = _names(changed)
            twice = ", ".join(sorted(names & taken))
            _require(not twice, path, f"grid: {axis}", twice, "of fields that no other axis sets")
            free = {name for name, value in changed.items() if isinstance(value, dict) and "class_path" not in value}
            mappings = tuple(f"{name}." for name in free)
            kept = {name: v for name, v in fields.items() if name not in names and not name.startswith(mappings)}
            fields = kept | changed
            taken |= names
        ranks = _ranks(path, fields.pop("ranks", content.get("ranks", "workers")), fields, config)
        for seed in seeds:
            label = ",".join(f"{_slug(k)}={_slug(_text(v))}" for k, v in {**settings, "seed": seed}.items())
            everything = {**fields, "seed": seed}
            points.append(Point(len(points), settings, seed, everything, ranks, label, folder / f"{label}.h5"))
    _check_names(path, points)
    return Sweep(name, description, path, folder, config, tuple(axes), tuple(points), tuple(figures))


def _axis(path: Path, name: str, values: Any) -> list[tuple[Any, dict[str, Any]]]:
    """The places on an axis: (value or label, fields that it sets)."""
    _require(name != "seed", path, "grid", name, "another axis (seeds are a list of their own)")
    filled = isinstance(values, list | dict) and len(values) > 0
    _require(filled, path, f"grid: {name}", values, "a list of values, or labels with their settings; not empty")
    if isinstance(values, dict):
        return [(label, _fields(path, f"grid: {name}: {label}", fields)) for label, fields in values.items()]
    return [
        (value if isinstance(value, int | float | str) else _text(value), _fields(path, f"grid: {name}", {name: value}))
        for value in values
    ]


def _fields(path: Path, where: str, given: Any, group: str = "") -> dict[str, Any]:
    """Flatten nested groups to dotted names; classes, and mappings that are arguments of a class, stay whole."""
    given = {} if given is None else given
    _require(isinstance(given, dict), path, where, given, "a mapping of fields and values")
    fields: dict[str, Any] = {}
    for key, value in given.items():
        name = f"{group}{key}"
        own = name not in NOT_SET and not name.endswith(".help")
        _require(own, path, where, name, "a field that the sweep does not set itself (seeds are a list of their own)")
        _require(re.fullmatch(r"\w+(\.\w+)*", name), path, where, name, "a field's name, such as algorithm.inner_lr")
        nested = isinstance(value, dict) and "class_path" not in value and name.partition(".")[2] in ("", "init_args")
        below = _fields(path, where, value, f"{name}.") if nested else {modern(name): value}
        twice = ", ".join(fields.keys() & below.keys())
        _require(not twice, path, where, twice, "given once")
        fields |= below
    return fields


def _names(fields: Mapping[str, Any]) -> set[str]:
    """Names of the fields that are set, those inside a class's init_args included."""
    inside = {name: value.get("init_args") for name, value in fields.items() if isinstance(value, dict)}
    return {*fields, *(f"{name}.{below}" for name, args in inside.items() if isinstance(args, dict) for below in args)}


def _copy(source: Path, target: Path) -> None:
    text = source.read_bytes()
    if not target.exists() or target.read_bytes() != text:
        with replacing(target) as temporary:
            temporary.write_bytes(text)


def _ranks(path: Path, given: Any, fields: Mapping[str, Any], config: str | None) -> int:
    """Number of ranks of a point: the given one, or its number of workers."""
    if given == "workers":
        given = fields.get("workers")
        if given is None and config is not None:
            given = document.read(configuration.preset(config), "configuration").get("workers")
        if given is None:
            raise ValueError(f"{path}: ranks: as many as workers, but the field workers is not given; give a number")
    given = canonical(given)
    _require(type(given) is int and given >= 1, path, "ranks", given, "a number, 1 or more, or workers")
    return int(given)


def _check_names(path: Path, points: Iterable[Point]) -> None:
    """Raise ValueError where two points are the same job or share a name, or a name is too long for a file."""
    seen: dict[str, Point] = {}
    for point in points:
        if len(point.name) > LONGEST_NAME:
            raise ValueError(f"{path}: grid: the name of {point} has more than {LONGEST_NAME} letters; shorten labels")
        job = json.dumps([canonical(point.fields), point.ranks], sort_keys=True)
        for key, why in ((job, ""), (point.name, f" by its file's name, {point.name}, without other characters")):
            if key in seen:
                raise ValueError(f"{path}: grid: {seen[key]} and {point} (index {point.index}) are the same point{why}")
            seen[key] = point


def canonical(value: Any) -> Any:
    """Convert whole floats to integers, as equal numbers make the same job."""
    if isinstance(value, dict):
        return {key: canonical(below) for key, below in value.items()}
    if isinstance(value, list):
        return [canonical(below) for below in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _retyped(name: str, given: Any, taken: Any) -> Iterator[str]:
    """Messages about text of a sweep that the command line takes for another type, such as "null" and, among free
    arguments, "12e6"."""
    if isinstance(given, str):
        if not (is_dataclass(taken) or (isinstance(taken, str | Path) and str(taken) in (given, in_full(given)))):
            yield f"{name}: the text {given!r} would be taken for {taken!r}; where that is meant, leave the quotes out"
    elif isinstance(given, dict):
        for key, value in given.get("init_args", given).items():
            if key != "class_path":
                below = taken
                for part in key.split("."):
                    below = below.get(part, value) if isinstance(below, dict) else getattr(below, part, value)
                yield from _retyped(f"{name}.{key}".strip("."), value, below)
    elif isinstance(given, list) and isinstance(taken, list | tuple):
        for place, (value, below) in enumerate(zip(given, taken, strict=False)):
            yield from _retyped(f"{name}[{place}]", value, below)


def in_full(text: str) -> str:
    """Expand ~ and $VARIABLES in text, as a configuration does in paths."""
    return str(Path(os.path.expanduser(os.path.expandvars(text))))  # noqa: PTH111  (that of Path raises RuntimeError)


def _mapping(path: Path, key: str, content: Mapping[str, Any]) -> dict[str, Any]:
    value = content.get(key, {})
    _require(isinstance(value, dict) and (value or key not in content), path, key, value, "a mapping, not empty")
    return dict(value)


def _require(condition: Any, path: Path, name: str, value: Any, rule: str) -> None:
    if not condition:
        raise ValueError(f"{path}: {name}: must be {rule}, not {value!r}")


def _argument(value: Any) -> str:
    """A value as text for the command line."""
    return value if isinstance(value, str) else flow_yaml(value)


def _text(value: Any) -> str:
    """A value as text for a name."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _slug(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII).strip("-")
