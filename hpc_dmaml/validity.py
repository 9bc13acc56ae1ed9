"""Validation of result files: attributes and arrays, their types, and that they are consistent with each other."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import h5py
import numpy as np

from hpc_dmaml.old_names import modernised
from hpc_dmaml.plain_yaml import load_yaml


class Attribute(NamedTuple):
    kind: type
    description: str


class Array(NamedTuple):
    dimensions: tuple[str, ...]
    description: str


ATTRIBUTES = {
    "config": Attribute(str, "the whole configuration, as YAML"),
    "seed": Attribute(int, "the field `seed`"),
    "versions": Attribute(str, "the versions of the packages and of Python"),
    "git_commit": Attribute(str, "the commit of the clone; empty outside one"),
    "start": Attribute(str, "time of the job's first start (ISO 8601)"),
    "end": Attribute(str, "time at which the job ended; empty while it runs"),
    "written": Attribute(str, "time at which this file was written"),
    "sample_shape": Attribute(np.ndarray, "shape of one input"),
    "outputs": Attribute(int, "number of model outputs for one input"),
    "loss": Attribute(str, "the loss, with its settings"),
    "data": Attribute(str, "a digest of the samples; empty for families that are only numbers"),
    "derivatives": Attribute(str, "how the model was differentiated: `layerwise` or `autograd`"),
    "metric": Attribute(str, "the metric's name; empty if there is none"),
    "metric_unit": Attribute(str, "its unit"),
    "metric_direction": Attribute(str, "which values are better: `higher` or `lower`"),
    "restarts": Attribute(int, "how many times the job was resumed"),
    "best_run": Attribute(int, "run of the best validation, from 0; −1 before the first"),
    "best_score": Attribute(
        float, "its score: the mean metric, or else loss, after the last step, negated if lower is better"
    ),
}
NOT_IN_ALL = ("derivatives", "data")
"""Attributes that older files do not have."""
STATE = {
    "meta_model/parameters": Array(("parameter",), "φ after the last run"),
    "meta_model/best_parameters": Array(("parameter",), "φ at the best validation; before the first, the current φ"),
    "meta_model/names": Array(("tensor",), "names of the tensors in φ, in their order"),
    "meta_model/shapes": Array(("tensor",), "their shapes as text, such as `64,1,3,3`"),
    "classes/train": Array(("train_class",), "digests of the names of the training classes, to notice changed data"),
    "classes/validation": Array(("validation_class",), "likewise of the validation classes"),
    "classes/test": Array(("test_class",), "and of the test classes"),
    "checkpoint/memory": Array(("memory", "worker"), "losses of the last runs, for the weight generator"),
    "checkpoint/restarts": Array(("restart",), "for each restart, the run at which the job resumed"),
    "checkpoint/next_best/score": Array(("kept",), "validation scores of the checkpoints after the best"),
    "checkpoint/next_best/parameters": Array(("kept", "parameter"), "their φ"),
    "checkpoint/next_best/run": Array(("kept",), "their runs, from 0"),
    "ranks/host": Array(("host",), "node of each rank, at the last start"),
    "ranks/device": Array(("host",), "device of each rank, at the last start"),
    "trajectories/position": Array(
        ("step", "shown", "trajectory", "time", "coordinate"),
        "positions in some tasks of the last validation, before adaptation and after each step; NaN after the end",
    ),
    "trajectories/goal": Array(("shown", "coordinate"), "the goals of these tasks"),
}
"""Arrays of a file besides the log; a file that lacks some can be read, but not resumed."""
TEXTS = ("meta_model/names", "meta_model/shapes", "ranks/host", "ranks/device")
COUNTS = (
    "runs/run", "runs/seen_tasks", "validation/run", "checkpoint/restarts", "checkpoint/next_best/run",
    "classes/train", "classes/validation", "classes/test",
)  # fmt: skip


def check_attributes(given: Mapping[str, Any]) -> None:
    """Raise ValueError unless the root attributes are complete, of the right types, and in range."""
    for name, (kind, _) in ATTRIBUTES.items():
        if name in NOT_IN_ALL and name not in given:
            continue
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
    for name, dimensions in {**log, **{name: array.dimensions for name, array in STATE.items()}}.items():
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
