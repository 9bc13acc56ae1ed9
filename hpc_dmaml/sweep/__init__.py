"""A sweep: one experiment of many jobs, described by one YAML file. Needs neither MPI nor torch to be read.

    python -m hpc_dmaml.sweep slurm/sweeps/demo.yaml              list its points: index, name, ranks, state, output
    python -m hpc_dmaml.sweep slurm/sweeps/demo.yaml --missing    those that nobody has completed or is at
    python -m hpc_dmaml.sweep slurm/sweeps/demo.yaml --index 3    run one, also under mpirun or srun
    python -m hpc_dmaml.sweep slurm/sweeps/demo.yaml --local      run what is missing, one after another

A folder of results stands for the sweep that filled it: it holds a copy, `sweep.yaml`. `slurm/submit.py` hands a sweep
to SLURM.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hpc_dmaml import config as configuration
from hpc_dmaml import placement
from hpc_dmaml.files import locked, replacing

KEYS = {"name", "description", "config", "set", "grid", "seeds", "ranks", "figures"}
COPY = "sweep.yaml"
"""Name of a sweep's file in its folder of results."""


@dataclass(frozen=True)
class Point:
    """One job of a sweep."""

    index: int
    """Place in the list of points, from 0."""
    settings: dict[str, Any]
    """What it is in each axis: the field's value, or the label."""
    seed: int
    fields: dict[str, Any]
    """All fields that it sets besides the sweep's configuration, seed included, by their names on the command line."""
    ranks: int
    name: str
    """From settings and seed, fit for a file's name: it stays when other points come or go."""
    output: Path

    def arguments(self, config: str | None) -> list[str]:
        """Its configuration as a command line of `python -m hpc_dmaml`, on top of the sweep's."""
        chosen = sorted(self.fields, key=lambda name: name.count("."))  # a class comes before its own fields
        words = [] if config is None else ["--config", config]
        for name in chosen:
            words += [f"--{name}", _text(self.fields[name])]
        return words


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
    """In the order of the file; the seed is none of them."""
    points: tuple[Point, ...]
    figures: tuple[str, ...]
    """Numbers of the thesis's figures that it gives."""

    def point(self, key: int | str) -> Point:
        """A point by index or name. Raises ValueError."""
        for point in self.points:
            if key in (point.index, point.name):
                return point
        number = len(self.points)
        what = f"index: there is no point {key}; there are {number}, 0 to {number - 1}"
        raise ValueError(f"{self.path}: {what if isinstance(key, int) else f'there is no point named {key!r}'}")

    def parse(self, point: Point) -> configuration.RunConfig:
        """The configuration with which a point starts, or goes on where its file ends. Raises ValueError."""
        restart = ["--resume", "auto", "--output", str(point.output)]
        try:
            return configuration.parse([*point.arguments(self.config), *restart])
        except ValueError as error:
            raise ValueError(f"{self.path}: point {point.name}: {error}") from error

    def check(self) -> None:
        """Raise ValueError for the first point that could not run. Points that differ by seed alone are one."""
        seen = []
        for point in self.points:
            if point.settings in seen:
                continue
            seen.append(point.settings)
            try:
                config = configuration.parse(point.arguments(self.config))
                placement.check(point.ranks, config.workers or point.ranks, config.tasks)
            except ValueError as error:
                raise ValueError(f"{self.path}: point {point.name}: {error}") from error

    def copy(self) -> None:
        """Put a copy of the file into the folder of results, which then says by itself what belongs there."""
        target, text = self.folder / COPY, self.path.read_bytes()
        with locked(target):  # many points may start at once
            if not target.exists() or target.read_bytes() != text:
                with replacing(target) as temporary:
                    temporary.write_bytes(text)


def load(path: str | Path, results: str | Path = "results") -> Sweep:
    """The sweep of a YAML file, whose results go to `results`/NAME; or that of a folder of results.

    Raises ValueError, naming file and field. The fields' values are checked by `Sweep.check`, which takes longer.
    """
    path = Path(path)
    if path.is_dir():
        return read_folder(path)
    content = _content(path)
    name = content.get("name", path.stem)
    _require(isinstance(name, str) and _slug(name) == name, path, "name", name, "letters, digits and _-.")
    return _sweep(path, content, name, Path(results) / name)


def read_folder(folder: str | Path) -> Sweep:
    """The sweep that a folder holds the results of. Raises ValueError."""
    folder = Path(folder)
    path = folder / COPY
    content = _content(path)
    return _sweep(path, content, str(content.get("name", folder.resolve().name)), folder)


def _content(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        configuration.check_yaml(text)
        content = yaml.safe_load(text)
    except FileNotFoundError as error:
        raise ValueError(f"there is no sweep {path}") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not a readable sweep: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a sweep is a mapping of {', '.join(sorted(KEYS))}")
    for key in content:
        _require(key in KEYS, path, "unknown key", key, f"one of {', '.join(sorted(KEYS))}")
    return content


def _sweep(path: Path, content: dict[str, Any], name: str, folder: Path) -> Sweep:
    config = content.get("config")
    _require(config is None or isinstance(config, str), path, "config", config, "a preset's name or a YAML file")
    figures = content.get("figures", [])
    quoted = isinstance(figures, list) and all(isinstance(figure, str) for figure in figures)
    _require(quoted, path, "figures", figures, "a list of quoted numbers ('6.10' is not 6.1)")
    seeds = content.get("seeds", [0])
    whole = isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)
    _require(whole, path, "seeds", seeds, "a list of whole numbers, at least one")
    common = _fields(path, "set", content.get("set", {}))
    axes = {str(axis): _axis(path, str(axis), values) for axis, values in _mapping(path, "grid", content).items()}
    points: list[Point] = []
    for chosen in itertools.product(*(axis.items() for axis in axes.values())):
        settings = {axis: value for axis, ((_, value), _) in zip(axes, chosen, strict=True)}
        fields = dict(common)
        for axis, (_, changed) in zip(axes, chosen, strict=True):
            twice = [field for field in changed if field in fields and field not in common]
            _require(not twice, path, f"grid: {axis}", ", ".join(twice), "of fields that no other axis sets")
            fields |= changed
        ranks = _ranks(path, fields.pop("ranks", content.get("ranks", "workers")), fields, config)
        for seed in seeds:
            label = ",".join(f"{_slug(k)}={_slug(_text(v))}" for k, v in {**settings, "seed": seed}.items())
            everything = {**fields, "seed": seed}
            points.append(Point(len(points), settings, seed, everything, ranks, label, folder / f"{label}.h5"))
    _check_duplicates(path, points)
    description = str(content.get("description", name))
    return Sweep(name, description, path, folder, config, tuple(axes), tuple(points), tuple(figures))


def _axis(path: Path, name: str, values: Any) -> dict[tuple[int, Any], dict[str, Any]]:
    """What an axis sets in each of its places: {(place, value or label): fields}."""
    filled = isinstance(values, list | dict) and len(values) > 0
    _require(filled, path, f"grid: {name}", values, "a list of values, or labels with their settings; not empty")
    if isinstance(values, dict):
        named = {str(label): _fields(path, f"grid: {name}: {label}", fields) for label, fields in values.items()}
        return {(place, label): fields for place, (label, fields) in enumerate(named.items())}
    return {
        (place, value if isinstance(value, int | float | str | bool) else _text(value)): _fields(
            path, f"grid: {name}", {name: value}
        )
        for place, value in enumerate(map(_number, values))
    }


def _fields(path: Path, where: str, given: Any) -> dict[str, Any]:
    """Nested groups as dotted names; classes stay whole."""
    given = {} if given is None else given
    _require(isinstance(given, dict), path, where, given, "a mapping of fields and values")
    fields: dict[str, Any] = {}
    for name, value in given.items():
        own = name not in ("seed", "output", "resume", "config")
        _require(own, path, where, name, "a field that the sweep does not set itself (seeds are a list of their own)")
        if isinstance(value, dict) and "class_path" not in value:
            fields |= {f"{name}.{below}": v for below, v in _fields(path, where, value).items()}
        else:
            fields[str(name)] = _number(value)
    return fields


def _ranks(path: Path, given: Any, fields: Mapping[str, Any], config: str | None) -> int:
    """Ranks of a point: the number given, or as many as it has workers."""
    if given == "workers":
        given = fields.get("workers")
        if given is None and config is not None:
            given = (yaml.safe_load(configuration.preset(config).read_text(encoding="utf-8")) or {}).get("workers")
        if given is None:
            raise ValueError(f"{path}: ranks: as many as workers, but the field workers is not given; give a number")
    _require(type(given) is int and given >= 1, path, "ranks", given, "a number, 1 or more, or workers")
    return int(given)


def _check_duplicates(path: Path, points: Iterable[Point]) -> None:
    seen: dict[str, str] = {}
    for point in points:
        for key in (json.dumps([point.fields, point.ranks], sort_keys=True, default=str), point.name):
            if key in seen:
                raise ValueError(f"{path}: grid: {seen[key]} and {point.name} (index {point.index}) are the same point")
            seen[key] = point.name


def _mapping(path: Path, key: str, content: Mapping[str, Any]) -> dict[str, Any]:
    value = content.get(key, {})
    _require(isinstance(value, dict) and (value or key not in content), path, key, value, "a mapping, not empty")
    return dict(value)


def _require(condition: Any, path: Path, name: str, value: Any, rule: str) -> None:
    if not condition:
        raise ValueError(f"{path}: {name}: must be {rule}, not {value!r}")


def _number(value: Any) -> Any:
    """YAML takes 1e-3, without a point, for text."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value) else value


def _text(value: Any) -> str:
    """A value as the command line has it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _slug(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII).strip("-")
