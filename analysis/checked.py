"""The border of the analysis: a result file is read, and checked once for all that is drawn and reckoned from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from command import printable

from hpc_dmaml import results

LEAST = {"seed": 0, "runs": 1, "workers": 1, "epochs": 1, "tasks": 1}
"""Whole numbers of every configuration, and their least values."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
COUNTS = ("runs/run", "runs/seen_tasks", "validation/run")
"""Variables that are whole numbers."""


def read(path: Path, *groups: str) -> results.Results:
    """The arrays of some groups. Their values may be any; that they fit together, and that the configuration has what
    all jobs have, can be relied on. Raises ValueError, naming the file and what is wrong."""
    source = results.read(path, *groups)
    try:
        _check_config(config(source))
        _check_attributes(source.attributes)
        _check_arrays(source, groups)
    except ValueError as error:
        raise ValueError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    return source


def config(source: results.Results) -> dict[str, Any]:
    """The configuration of a file, as its `config` but faster. Raises ValueError for YAML's aliases, a few lines of which
    can stand for more than fits anywhere."""
    text = source.attribute("config")
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, LOADER)):
        raise ValueError("config: aliases (*name) have no place in it")
    content: dict[str, Any] = yaml.load(text, LOADER)
    return content


def _check_config(config: Mapping[Any, Any]) -> None:
    for name, least in LEAST.items():
        _require_whole(f"config: {name}", config.get(name), least)
    for name in ("task", "model"):
        given = config.get(name)
        _require(
            isinstance(given, dict) and isinstance(given.get("class_path"), str), f"config: {name}", "a class", given
        )
    for name in ("checkpoint", "validation"):
        _require(isinstance(config.get(name, {}), dict), f"config: {name}", "a mapping", config.get(name))


def _check_attributes(attributes: Mapping[str, Any]) -> None:
    _require_whole("restarts", attributes.get("restarts", 0), 0)
    _require(isinstance(attributes.get("loss"), str), "loss", "a name", attributes.get("loss"))
    _require_whole("outputs", attributes.get("outputs"), 1)


def _check_arrays(source: results.Results, groups: tuple[str, ...]) -> None:
    sizes: dict[str, int] = {}
    for name, variable in results.VARIABLES.items():
        if name.partition("/")[0] not in groups:
            continue
        values = source[name]
        kinds = "iu" if name in COUNTS else "iuf"
        _require(values.dtype.kind in kinds, name, "whole numbers" if name in COUNTS else "numbers", values.dtype)
        expected = tuple(sizes.get(d, n) for d, n in zip(variable.dimensions, values.shape, strict=False))
        fits = values.ndim == len(variable.dimensions) and values.shape == expected and 0 not in values.shape[1:]
        _require(fits, name, f"an array of {' × '.join(variable.dimensions)} as the others", values.shape)
        sizes.update(zip(variable.dimensions, values.shape, strict=True))
        if name.endswith("/run"):
            rising = (np.diff(values) > 0).all() and (not len(values) or 0 <= values[0] <= values[-1] < 2**31)
            _require(rising, name, "rising numbers from 0", printable(str(values), 60))
    for name in ("ranks/host", "ranks/device") if "ranks" in groups else ():
        values = source[name]
        texts = values.ndim == 1 and all(isinstance(text, str) for text in values) and len(values) > 0
        _require(texts, name, "a text for each rank", printable(str(values), 60))
    if sizes.get("validation") and "run" in sizes:
        _require(sizes["run"] > 0, "validation", "of runs that there are", f"of {sizes['validation']}")


def _require_whole(name: str, value: Any, least: int) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool) and least <= value < 2**63
    _require(whole, name, f"a whole number, {least} or more", value)


def _require(condition: Any, name: str, rule: str, value: Any) -> None:
    if not condition:
        raise ValueError(f"{name} must be {rule}, not {printable(repr(value), 60)}")
