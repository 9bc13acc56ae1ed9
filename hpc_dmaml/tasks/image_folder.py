"""Any images in folders: one folder a class, or Ravi & Larochelle's CSV lists over one folder (mini-ImageNet)."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.tasks import image_cache
from hpc_dmaml.tasks.family import Split
from hpc_dmaml.tasks.image_classes import Classes, FewShotImages, FewShotSampler

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class ImageFolder(FewShotImages):
    """Images of your own: one folder a class. Decoded once into a memory-mapped cache."""

    root: str = "data/images"
    """Folder with one folder a class; or with all images, if `split` is a folder of CSV lists that name them."""
    split: str | None = None
    """Which classes train, validate and test: a JSON file {"train": [names], "validation": …, "test": …}; a CSV file
    with the columns class,split; or a folder with train.csv, val.csv and test.csv of columns filename,label.
    Default: at random, by `split_seed` and `fractions`."""
    fractions: tuple[float, float, float] = (0.64, 0.16, 0.2)
    """Shares of the classes that train, validate and test, for a random split."""
    split_seed: int = 0
    """Which random split."""
    size: tuple[int, int] = (84, 84)
    """Height and width of the images that the model sees, in pixels."""
    channels: int = 3
    """3 for colour, 1 for grey."""
    rotations: bool = False
    """Each class turned by 90°, 180° and 270° is a class of its own."""

    def prepare(self) -> None:
        if self.channels not in (1, 3) or min(self.size) < 1:
            raise ValueError(f"task.channels must be 1 or 3, task.size positive, not {self.channels}, {self.size}")
        classes = self._classes()
        listing = image_cache.folder_listing(Path(self.root), (f for _, files in classes for f in files))
        mark = image_cache.fingerprint(self._shape, [(n, len(files)) for n, files in classes], listing)
        image_cache.build(
            self._cache, mark, classes, self._shape, lambda file: image_cache.read_image(file, self._shape), self.root
        )

    def load(self) -> FewShotSampler:
        images, names, first, count = image_cache.load(self._cache)
        number = {name: i for i, name in enumerate(names)}
        splits: dict[Split, Classes] = {}
        for split, members in self._split(names).items():
            numbers = [number[name] for name in members]
            splits[split] = Classes.of(first[numbers], count[numbers], self.rotations)
        return FewShotSampler(images, splits, self)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return (self.channels, *self.size)

    @property
    def _cache(self) -> Path:
        root = Path(self.root)
        source = image_cache.fingerprint(str(root.resolve()), self.split)[:8]
        size = "x".join(map(str, self._shape))
        return image_cache.cache_folder(root.parent) / f"{root.name}_{size}_{source}.h5"

    def _classes(self) -> list[tuple[str, list[Path]]]:
        """Every class with its image files."""
        root = Path(self.root)
        if not root.is_dir():
            raise ValueError(f"task.root: there is no folder {root}")
        if self.split is not None and Path(self.split).is_dir():
            files: dict[str, list[Path]] = {}
            for label, name in ((label, name) for rows in self._lists().values() for name, label in rows):
                files.setdefault(label, []).append(root / name)
            missing = next((file for each in files.values() for file in each if not file.is_file()), None)
            if missing is not None:
                raise ValueError(f"task.split: {self.split} lists {missing.name}, which is not in {root}")
        else:
            folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
            files = {f.name: sorted(p for p in f.iterdir() if p.suffix.lower() in SUFFIXES) for f in folders}
            files = {name: images for name, images in files.items() if images}
        if not files:
            raise ValueError(f"task.root: {root} holds no folder with images")
        return sorted(files.items())

    def _split(self, names: list[str]) -> dict[Split, list[str]]:
        if self.split is None:
            shuffled = generator(self.split_seed, Purpose.CLASS_SPLIT).permutation(names).tolist()
            train, validation = (round(len(names) * sum(self.fractions[:i])) for i in (1, 2))
            return {"train": shuffled[:train], "validation": shuffled[train:validation], "test": shuffled[validation:]}
        path = Path(self.split)
        if path.is_dir():
            split = {s: sorted({label for _, label in rows}) for s, rows in self._lists().items()}
        elif path.suffix.lower() == ".json":
            split = self._json(path)
        else:
            rows = _rows(path, ("class", "split"))
            split = {s: [name for name, its in rows if _split_name(its) == s] for s in SPLITS}
        for s, members in split.items():
            unknown = sorted(set(members) - set(names))
            if unknown:
                raise ValueError(f"task.split: {path} puts {unknown[0]!r} into {s}, but {self.root} has no such class")
            if not members:
                raise ValueError(f"task.split: {path} has no classes for {s}")
        if sum(map(len, split.values())) != len(set().union(*split.values())):
            raise ValueError(f"task.split: {path} puts a class into two splits")
        return split

    def _lists(self) -> dict[Split, list[tuple[str, str]]]:
        """(file, label) of each split, from a folder of CSV lists."""
        folder = Path(str(self.split))
        found: dict[Split, list[tuple[str, str]]] = {}
        for path in sorted(folder.glob("*.csv")):
            found[_split_name(path.stem)] = _rows(path, ("filename", "label"))
        if set(found) != set(SPLITS):
            raise ValueError(f"task.split: {folder} must hold train.csv, val.csv and test.csv")
        return found

    def _json(self, path: Path) -> dict[Split, list[str]]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            split = {_split_name(key): value for key, value in content.items() if isinstance(value, list)}
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"task.split: cannot read {path}: {error}") from error
        if set(split) != set(SPLITS) or not all(isinstance(n, str) for names in split.values() for n in names):
            raise ValueError(f"task.split: {path} must hold three lists of class names: train, validation, test")
        return split


def _split_name(name: str) -> Split:
    for split in SPLITS:
        if name.strip().lower() in (split, split[:3]):
            return split
    raise ValueError(f"task.split: {name!r} is not a split; they are {', '.join(SPLITS)}")


def _rows(path: Path, columns: tuple[str, str]) -> list[tuple[str, str]]:
    """Two columns of a CSV file with a header."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(row[columns[0]], row[columns[1]]) for row in csv.DictReader(file)]
        if any(value is None for row in rows for value in row):
            raise ValueError("a row is too short")
        return rows
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise ValueError(f"task.split: cannot read the columns {columns} of {path}: {error!r}") from error
