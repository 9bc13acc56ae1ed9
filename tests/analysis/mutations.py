"""Result files in good order whose contents are odd: numbers that are none, few rows, texts and settings of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from hpc_dmaml.files import add_checksum
from hpc_dmaml.results import SCALES, VARIABLES, Results

NUMBERS = (np.nan, np.inf, -np.inf, 1e20, -1e20, 1e300, 5e-324, 0.0, -1.0, 1e7)
TEXTS = ("", "$x_{", "<script>alert(1)</script>", "a\nb\x1b[2J\x00", "\udc80", "λ" * 50_000, "os.system", "../../x")
ODD = (*NUMBERS, *TEXTS, None, True, -1, 0, 2**70, 10**400, [], [[]], {}, {"class_path": []}, {"a": {"b": [1, {}]}})


def mutate(source: Results, rng: np.random.Generator, path: Path) -> list[str]:
    """Write a file like `source` with one to three things changed; says what."""
    arrays, attributes = dict(source.arrays), dict(source.attributes)
    told = [_KINDS[rng.integers(len(_KINDS))](arrays, attributes, rng) for _ in range(rng.integers(1, 4))]
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, dtype=h5py.string_dtype() if values.dtype == object else None)
        for name, value in attributes.items():
            if isinstance(value, str):
                text = value.replace("\0", "").encode("utf-8", "surrogateescape")  # a text ends at its first NUL
                file.attrs.create(name, text, dtype=h5py.string_dtype())
            else:
                file.attrs[name] = value
    add_checksum(path)
    return told


def _pick(rng: np.random.Generator, things: Any) -> Any:
    things = list(things)
    return things[rng.integers(len(things))]


def _values(arrays: dict[str, Any], attributes: dict[str, Any], rng: np.random.Generator) -> str:
    """One number, a row, a column, a part or all of an array."""
    name = _pick(rng, [n for n, a in arrays.items() if a.dtype.kind == "f" and a.size])
    values = arrays[name].copy()
    where = [slice(None)] * values.ndim
    for axis in rng.permutation(values.ndim)[: rng.integers(values.ndim + 1)]:
        where[axis] = _pick(rng, [int(rng.integers(values.shape[axis])), slice(0, None, 2), slice(-3, None)])
    number = _pick(rng, NUMBERS)
    values[tuple(where)] = number
    arrays[name] = values
    return f"{name}[{where}] = {number}"


def _group(arrays: dict[str, Any], attributes: dict[str, Any], rng: np.random.Generator) -> str:
    """All arrays of a dimension cut alike: a file of few runs, workers or validations, or of none."""
    dimension, length = _pick(rng, SCALES), int(rng.integers(3))
    for name, variable in VARIABLES.items():
        if name in arrays and dimension in variable.dimensions:
            axis = variable.dimensions.index(dimension)
            arrays[name] = np.take(arrays[name], np.arange(min(length, arrays[name].shape[axis])), axis)
    arrays[SCALES[dimension]] = arrays[SCALES[dimension]][:length]
    if dimension == "rank":
        arrays |= {name: arrays[name][:length] for name in ("ranks/host", "ranks/device")}
    return f"{length} of {dimension}"


def _config(arrays: dict[str, Any], attributes: dict[str, Any], rng: np.random.Generator) -> str:
    """A field of the configuration that is missing or odd."""
    content = yaml.safe_load(attributes["config"])
    place, name = content, _pick(rng, content)
    while isinstance(place[name], dict) and place[name] and rng.random() < 0.7:
        place = place[name]
        name = _pick(rng, place)
    odd = _pick(rng, ODD)
    if rng.random() < 0.2:
        del place[name]
    else:
        place[name if rng.random() < 0.9 else _pick(rng, (3, "$", "<b>", "x" * 5000))] = odd
    attributes["config"] = yaml.safe_dump(content, sort_keys=False)
    return f"config: {str(name)[:30]} = {str(odd)[:30]!r}"


def _text(arrays: dict[str, Any], attributes: dict[str, Any], rng: np.random.Generator) -> str:
    """What a file says of time and place."""
    name = _pick(
        rng,
        (
            "start",
            "end",
            "written",
            "versions",
            "git_commit",
            "loss",
            "metric",
            "metric_unit",
            "metric_direction",
            "ranks/host",
            "ranks/device",
        ),
    )
    text = _pick(rng, (*TEXTS, "0001-01-01T00:00:00", "9999-99-99", "share", "lower"))
    if name in arrays:
        arrays[name] = np.array([text.replace("\udc80", "?").replace("\0", "")] * len(arrays[name]), object)
    else:
        attributes[name] = text
    return f"{name} = {text[:30]!r}"


_KINDS = (_values, _values, _group, _config, _text)
