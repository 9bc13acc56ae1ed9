"""The split of classes into training, validation and test: random, from a JSON or CSV file, or from CSV image lists."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.requirements import require
from hpc_dmaml.tasks.family import Split

NAMED = {path.stem: path for path in Path(__file__).with_name("splits").glob("*.json")}
"""Published splits of well-known data sets, by name."""
SPLITS: tuple[Split, ...] = get_args(Split)
FILE, CLASS, SPLIT = ("filename", "file", "path", "image"), ("label", "class"), ("split",)
"""Accepted names of the columns for an image file, a class and a split."""


def split_named(name: str) -> Split | None:
    """The split with that name (train, val, valid, validation or test), or None."""
    plain = name.strip().lower()
    return next((split for split in SPLITS if plain in (split, split[:3], split[:5])), None)


def read_classes(path: Path) -> dict[Split, list[str]]:
    """The class names of each split in a JSON or CSV file. Raises ValueError, naming the file."""
    found: dict[Split, list[str]] = {}
    for key, name in _pairs_of_json(path) if path.suffix.lower() == ".json" else _pairs_of_csv(path):
        split = split_named(key)
        if split is None:
            raise ValueError(f"task.split: {path}: {key!r} is not a split; they are {', '.join(SPLITS)}")
        found.setdefault(split, []).append(name)
    return {split: list(dict.fromkeys(names)) for split, names in found.items()}


def read_lists(folder: Path) -> dict[Split, dict[str, list[str]]]:
    """The image files of each class of each split, from a folder's train.csv, val.csv and test.csv: filename,label.

    Without a label, the class is the folder in the file's name. Raises ValueError, naming the file.
    """
    found: dict[Split, dict[str, list[str]]] = {}
    class_of: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        split = split_named(path.stem)
        if split is None or path.suffix.lower() != ".csv":
            continue
        if split in found:
            raise ValueError(f"task.split: {folder} has two lists for {split}, {path.name} is one of them")
        classes = found[split] = {}
        for given, label in _rows(path, FILE, CLASS, needed=1):
            place = PurePosixPath(given.replace("\\", "/"))
            name, label = str(place), label or place.parent.name
            if not label:
                raise ValueError(f"task.split: {path} does not say which class {given!r} is of; add a column label")
            if class_of.setdefault(name, label) != label:
                raise ValueError(f"task.split: {path} lists {name} as {label!r}, and it is {class_of[name]!r} already")
            classes.setdefault(label, []).append(name)
        for label, files in classes.items():
            classes[label] = list(dict.fromkeys(files))
    if not found:
        raise ValueError(f"task.split: {folder} must hold train.csv, val.csv and test.csv")
    return found


def random_split(names: list[str], fractions: tuple[float, float, float], seed: int) -> dict[Split, list[str]]:
    """Split classes at random by `fractions`. Raises ValueError if these do not add up to 1."""
    require(seed >= 0, "task.split_seed", seed, "0 or more")
    if min(fractions) < 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise ValueError(f"task.fractions must be three shares that add up to 1, not {fractions}")
    shuffled = generator(seed, Purpose.CLASS_SPLIT).permutation(names).tolist()
    train, validation = (round(len(names) * sum(fractions[:i])) for i in (1, 2))
    return {"train": shuffled[:train], "validation": shuffled[train:validation], "test": shuffled[validation:]}


def check_disjoint(split: dict[Split, list[str]], source: Path, field: str = "split", what: str = "class") -> None:
    """Raise ValueError if a class is in two splits: the model could be tested on classes it was trained on."""
    owner: dict[str, Split] = {}
    for part, names in split.items():
        for name in names:
            if owner.setdefault(name, part) != part:
                raise ValueError(
                    f"task.{field}: {source} puts a {what} into two splits: {name!r} is in {owner[name]} and in {part}, "
                    "but splits must be disjoint"
                )


def _pairs_of_json(path: Path) -> Iterator[tuple[str, str]]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name appears twice")
        return dict(pairs)

    try:
        content = json.loads(_text(path), object_pairs_hook=once)
        splits = [(key, names) for key, names in content.items() if isinstance(names, list)]
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"task.split: cannot read {path}: {error}") from error
    if not splits or not all(isinstance(name, str) for _, names in splits for name in names):
        raise ValueError(f"task.split: {path} must hold three lists of class names: train, validation, test")
    return ((key, name) for key, names in splits for name in names)


def _pairs_of_csv(path: Path) -> Iterator[tuple[str, str]]:
    return ((split, name) for name, split in _rows(path, CLASS, SPLIT))


def _rows(path: Path, *columns: tuple[str, ...], needed: int = 2) -> list[tuple[str, ...]]:
    """Columns of a CSV file with a header; `columns`: accepted names of each, of which the first `needed` are required.

    The delimiter is inferred from the header. Raises ValueError, naming the file.
    """
    rows = []
    try:
        text = _text(path).lstrip("\r\n")
        header = text.partition("\n")[0]
        table = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t|", key=header.count), strict=True)
        names = [name.strip().lower() for name in next(table, [])]
        places = [next((names.index(name) for name in known if name in names), None) for known in columns]
        if None in places[:needed]:
            known = " or ".join(columns[places.index(None)])
            raise ValueError(f"it has no column {known}; its first line is {header.strip()!r}")
        for cells in table:
            row = [cell.strip() for cell in cells]
            if not any(row):
                continue
            if len(row) < len(names) or any(row[len(names) :]):
                raise ValueError(f"line {table.line_num} has {len(row)} columns, the first line {len(names)}")
            rows.append(tuple("" if place is None else row[place] for place in places))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"task.split: cannot read {path}: {error}") from error
    return rows


def _text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 if it has its byte order mark, as spreadsheets write it."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"{error.strerror}; known by name are {', '.join(sorted(NAMED))}") from error
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    return data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
