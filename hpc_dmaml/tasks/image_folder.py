"""Image folders: one folder per class, or one folder with Ravi & Larochelle's CSV lists (mini-ImageNet)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpc_dmaml.launcher import launched_rank
from hpc_dmaml.tasks import image_cache
from hpc_dmaml.tasks.class_split import (
    NAMED,
    check_disjoint,
    random_split,
    read_classes,
    read_lists,
    split_named,
)
from hpc_dmaml.tasks.family import Split
from hpc_dmaml.tasks.image_classes import Classes, FewShotImages, FewShotSampler
from hpc_dmaml.tasks.image_files import LeftOut, contents


@dataclass(frozen=True)
class ImageFolder(FewShotImages):
    """Images of your own: one folder per class. Decoded once into a memory-mapped cache."""

    root: str = "data/images"
    """Folder with one folder per class, or with folders train, val and test of such folders; or with all images, if
    `split` is a folder of CSV lists. Here and in `split`, ~ and $VARIABLES are replaced."""
    split: str | None = None
    """The split of the classes: cifar_fs or fc100, the published splits of CIFAR-100 (always these; ./fc100 is your own
    file); a JSON file {"train": [names], "validation": …, "test": …}; a CSV file with the columns class,split; or a
    folder with train.csv, val.csv and test.csv with the columns filename,label, for files in `root` or in its folder
    of that label. Default: by the folders train, val and test in `root`, or else at random, by `split_seed` and
    `fractions`."""
    fractions: tuple[float, float, float] = (0.64, 0.16, 0.2)
    """Fractions of the classes for training, validation and test, for a random split."""
    split_seed: int = 0
    """Seed of the random split."""
    size: tuple[int, int] = (84, 84)
    """Height and width that images are resized to, in pixels."""
    channels: int = 3
    """3 for colour, 1 for grey."""
    rotations: bool = False
    """Add each class rotated by 90°, 180° and 270° as further classes."""

    def prepare(self) -> str:
        if self.channels not in (1, 3) or min(self.size) < 1:
            raise ValueError(f"task.channels must be 1 or 3, task.size positive, not {self.channels}, {self.size}")
        classes, root = self._classes(), self._path("root")
        self._split([name for name, _ in classes])  # checks the split before images are decoded
        listing = image_cache.folder_listing(root, (file for _, files in classes for file in files))
        mark = image_cache.fingerprint(self._shape, [(n, len(files)) for n, files in classes], listing)
        return image_cache.build(self._cache, mark, classes, self._shape, self.root)

    def load(self) -> FewShotSampler:
        images, names, first, count, digest = image_cache.load(self._cache)
        number = {name: i for i, name in enumerate(names)}
        splits: dict[Split, Classes] = {}
        for split, members in self._split(names).items():
            there = [name for name in members if name in number]
            numbers = [number[name] for name in there]
            absent = next((name for name in members if name not in number), None)
            lacking = None if absent is None else self._absence(split, absent)
            own = (
                name.rpartition("/")[2] if self.split is None else name for name in there
            )  # without its split's folder
            splits[split] = Classes.of(first[numbers], count[numbers], self.rotations, lacking, own)
        return FewShotSampler(images, splits, self, digest, at_random=self.split is None and not _is_nested(names))

    def _path(self, name: str) -> Path:
        known = NAMED.get(self.split or "") if name == "split" else None
        return known or super()._path(name)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return (self.channels, *self.size)

    @property
    def _cache(self) -> Path:
        root = Path(os.path.abspath(self._path("root")))  # noqa: PTH100  (its own name, also where it is "." or a link)
        source = image_cache.fingerprint(str(root.resolve()), self._by_lists and str(self._path("split").resolve()))
        size = "x".join(map(str, self._shape))
        return image_cache.cache_folder(root.parent) / f"{root.name[:40]}_{size}_{source[:16]}.h5"

    @property
    def _by_lists(self) -> bool:
        return self.split is not None and self._path("split").is_dir()

    def _classes(self) -> list[tuple[str, list[Path]]]:
        """Every class in `root`, with its image files."""
        root = self._path("root")
        if not root.is_dir():
            raise ValueError(f"task.root: there is no folder {root}")
        if self._by_lists:
            return sorted(self._listed_classes(root))
        left_out = LeftOut()
        classes = _class_folders(root, left_out)
        if str(left_out) and launched_rank(os.environ) == 0:
            print(f"{root}: left out {left_out}", file=sys.stderr, flush=True)
        if not classes:
            raise ValueError(
                f"task.root: {root} holds no folder with images; it must hold one folder per class, or folders "
                "train, val and test with one folder per class each"
            )
        return sorted(classes.items())

    def _listed_classes(self, root: Path) -> Iterator[tuple[str, list[Path]]]:
        """Yield the listed classes, without those that have no image in `root`, which the job may not need."""
        for split, classes in read_lists(self._path("split")).items():
            for label, names in classes.items():
                files = [file for name in names if (file := _find(root, label, name))]
                if len(files) == len(names):
                    yield label, files
                elif files:
                    raise ValueError(self._absence(split, label))

    def _split(self, names: list[str]) -> dict[Split, list[str]]:
        """The classes of each split, which may include others than `names`. Raises ValueError if none is in `names`."""
        if self.split is None and _is_nested(names):
            return _split_by_folder(self._path("root"), names)
        if self.split is None:
            return random_split(names, self.fractions, self.split_seed)
        path = self._path("split")
        split = {s: list(part) for s, part in read_lists(path).items()} if self._by_lists else read_classes(path)
        check_disjoint(split, path)
        split_of = {name: s for s, members in split.items() for name in members}
        if not split_of:
            raise ValueError(f"task.split: {path} names no class")
        if not split_of.keys() & set(names):
            name, s = next(iter(split_of.items()))
            there = f"; one that it has is {names[0]!r}" if names else ""
            raise ValueError(self._absence(s, name) + there)
        return split

    def _absence(self, split: Split, name: str) -> str:
        """The error message for a class that is in a split but not in `root`."""
        root, path = self._path("root"), self._path("split")
        if not self._by_lists:
            return f"task.split: {path} puts {name!r} into {split}, but {root} has no such class"
        missing = next(file for file in read_lists(path)[split][name] if not _find(root, name, file))
        return f"task.split: {path} lists {missing}, which is not in {root}"


def _find(root: Path, label: str, name: str) -> Path | None:
    """The file of that name in `root`, or in its folder of that class, or None."""
    return next((path for path in (root / name, root / label / name) if path.is_file()), None)


def _class_folders(root: Path, left_out: LeftOut) -> dict[str, list[Path]]:
    """The images of each folder; if none has any, of the folders in train, val and test, with names like train/cat."""
    folders, beside = contents(root, left_out)
    found = {folder.name: contents(folder, left_out) for folder in folders}
    if not any(images for _, images in found.values()):
        parts = {part: below for part, (below, _) in found.items() if split_named(part)}
        for name, (below, _) in found.items():
            if name not in parts:
                alone = "that hold folders, not images" if below else "without images"
                left_out.folders["beside train, val and test" if parts else alone] += 1
        found = {f"{part}/{each.name}": contents(each, left_out) for part, below in parts.items() for each in below}
    left_out.files["beside the classes"] += len(beside)
    left_out.folders["without images"] += sum(not images for _, images in found.values())
    left_out.folders["inside a class"] += sum(len(below) for below, images in found.values() if images)
    return {name: images for name, (_, images) in found.items() if images}


def _is_nested(names: list[str]) -> bool:
    """Whether the classes are in folders train, val and test: only then do their names contain a /."""
    return "/" in names[0]


def _split_by_folder(root: Path, names: list[str]) -> dict[Split, list[str]]:
    """The classes of each split, by the folders train, val and test that contain them."""
    folder_of: dict[Split, str] = {}
    split: dict[Split, list[str]] = {}
    for name in names:
        folder = name.partition("/")[0]
        part = split_named(folder)
        assert part is not None  # other folders have been skipped
        if folder_of.setdefault(part, folder) != folder:
            raise ValueError(f"task.root: {root} has two folders for {part}: {folder_of[part]} and {folder}")
        split.setdefault(part, []).append(name)
    check_disjoint({part: [name.partition("/")[2] for name in members] for part, members in split.items()}, root)
    return split
