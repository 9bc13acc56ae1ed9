"""Validation of result files: attributes and arrays, their types, and that they are consistent with each other."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from hpc_dmaml.old_names import modernised
from hpc_dmaml.plain_yaml import load_yaml

ATTRIBUTES = {
    "config": str, "seed": int, "versions": str, "git_commit": str, "start": str, "end": str, "written": str,
    "sample_shape": np.ndarray, "outputs": int, "loss": str, "metric": str, "metric_unit": str,
    "metric_direction": str, "restarts": int, "best_run": int, "best_score": float,
}  # fmt: skip
STATE = {
    "meta_model/parameters": ("parameter",), "meta_model/best_parameters": ("parameter",), "meta_model/names": ("tensor",),
    "meta_model/shapes": ("tensor",), "checkpoint/memory": ("memory", "worker"), "checkpoint/restarts": ("restart",),
    "checkpoint/next_best/score": ("kept",), "checkpoint/next_best/parameters": ("kept", "parameter"),
    "checkpoint/next_best/run": ("kept",), "ranks/host": ("host",), "ranks/device": ("host",),
    "trajectories/position": ("step", "shown", "trajectory", "time", "coordinate"),
    "trajectories/goal": ("shown", "coordinate"),
}  # fmt: skip
"""Arrays of a file besides the log, with their dimensions; a file that lacks some can be read, but not resumed."""
TEXTS = ("meta_model/names", "meta_model/shapes", "ranks/host", "ranks/device")
COUNTS = ("runs/run", "runs/seen_tasks", "validation/run", "checkpoint/restarts", "checkpoint/next_best/run")


def check_attributes(given: Mapping[str, Any]) -> None:
    """Raise ValueError unless the root attributes are complete, of the right types, and in range."""
    for name, kind in ATTRIBUTES.items():
        if name not in given:
            raise ValueError(f"it has no attribute {name}")
        value = given[name]
        right = {int: np.integer, float: np.floating}.get(kind, kind)
        if not isinstance(value, right):
            raise ValueError(f"its attribute {name} is of type {type(value).__name__}")
    shape = given["sample_shape"]
    if shape.ndim != 1 or shape.dtype.kind not in "iu" or (shape < 1).any() or given["outputs"] < 1:
        raise ValueError("its sample_shape and outputs are not valid shapes")
    if given["restarts"] < 0:
        raise ValueError(f"{given['restarts']} restarts are impossible")
    if given["metric_direction"] not in (("higher", "lower") if given["metric"] else ("",)):
        raise ValueError(f"its metric_direction is {given['metric_direction'][:9]!r}")
    config = load_yaml(given["config"])
    if not isinstance(config, dict):
        raise ValueError("it holds no configuration")
    modernised(config)


def check_arrays(given: Mapping[str, h5py.Dataset], log: Mapping[str, tuple[str, ...]]) -> None:
    """Raise ValueError unless the arrays have the right types, and those that share a dimension agree on its size.

    `log`: the dimensions of the arrays that every file has; their types follow from their names.
    """
    sizes: dict[str, int] = {}
    for name, dimensions in {**log, **STATE}.items():
        if name not in given and name in STATE:
            continue
        if name not in given:
            raise ValueError(f"it has no {name}")
        shape, kind = given[name].shape, given[name].dtype
        if len(shape) != len(dimensions):
            raise ValueError(f"{name} has {len(shape)} dimensions, not {len(dimensions)}")
        for dimension, size in zip(dimensions, shape, strict=True):
            if sizes.setdefault(dimension, size) != size:
                raise ValueError(f"{name} has {size} of {dimension}, where others have {sizes[dimension]}")
        counts = name in COUNTS or dimensions == (name.split("/")[-1],)
        if kind.kind not in ("O" if name in TEXTS else "iu" if counts else "f") or not kind.isnative:
            raise ValueError(f"{name} is of type {kind}")


def check_content(given: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless the arrays are consistent: runs without gaps, and a layout that fits the parameters."""
    runs, validated = given.get("runs/run"), given.get("validation/run")
    if runs is not None and (runs != np.arange(len(runs))).any():
        raise ValueError("runs/run has gaps")
    if validated is not None and ((np.diff(validated) <= 0).any() or (validated < 0).any()):
        raise ValueError("validation/run is not in order")
    if runs is not None and validated is not None and len(validated) and validated[-1] >= len(runs):
        raise ValueError("validation/run goes on after the last run")
    shapes, names, theta = (given.get(f"meta_model/{name}") for name in ("shapes", "names", "parameters"))
    if shapes is None or names is None or theta is None:
        return
    if not all(re.fullmatch(r"(\d{1,18}(,\d{1,18})*)?", shape) for shape in shapes):
        raise ValueError("meta_model/shapes are not valid shapes")
    size = sum(math.prod(int(side) for side in shape.split(",") if side) for shape in shapes)
    if size != len(theta) or len(set(names)) < len(names):
        raise ValueError(f"meta_model/names and shapes are not those of {len(theta)} parameters")
