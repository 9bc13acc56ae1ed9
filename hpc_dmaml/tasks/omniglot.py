"""Omniglot: 1,623 handwritten characters, each drawn by 20 people (Lake, Salakhutdinov & Tenenbaum, 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hpc_dmaml.files import locked
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.requirements import require
from hpc_dmaml.tasks import image_cache
from hpc_dmaml.tasks.family import Split
from hpc_dmaml.tasks.image_classes import Classes, FewShotImages, FewShotSampler
from hpc_dmaml.tasks.image_files import LeftOut, contents, read_image

CHARACTERS = {"images_background": 964, "images_evaluation": 659}
DRAWINGS = 20
"""Number of drawings of each character."""
SHAPE = (1, 28, 28)


@dataclass(frozen=True)
class Omniglot(FewShotImages):
    """Handwritten characters, 28 × 28, white on black; downloaded into `root` on first use, unless they are there."""

    root: str = "data/omniglot"
    """Folder of the data, with images_background/ and images_evaluation/, which are downloaded if missing."""
    split: Literal["random", "lake"] = "random"
    """random: 1,100 / 100 / 423 characters, as Finn et al.; lake: train on 25 of the background alphabets, validate on
    the other 5, test on the evaluation alphabets."""
    split_seed: int = 0
    """Seed of the split, separate from the job's seed."""
    rotations: bool = True
    """Add each character rotated by 90°, 180° and 270° as further classes."""

    def prepare(self) -> str:
        folder = self._path("root")
        if self._data() is None:
            _download(folder)
        data = self._data()
        if data is None:
            raise ValueError(f"task.root: after the download, {folder} still lacks {' or '.join(CHARACTERS)}")
        classes = _drawings(data)
        listing = image_cache.folder_listing(data, (file for _, files in classes for file in files))
        mark = image_cache.fingerprint(SHAPE, listing)
        return image_cache.build(self._cache(), mark, classes, SHAPE, "Omniglot", _decode)

    def load(self) -> FewShotSampler:
        images, names, first, count, digest = image_cache.load(self._cache())
        splits: dict[Split, Classes] = {
            split: Classes.of(first[numbers], count[numbers], self.rotations, names=(names[i] for i in numbers))
            for split, numbers in self._characters(names).items()
        }
        return FewShotSampler(images, splits, self, digest)

    def _characters(self, names: list[str]) -> dict[Split, np.ndarray]:
        """The indices of each split's characters."""
        require(self.split_seed >= 0, "task.split_seed", self.split_seed, "0 or more")
        rng = generator(self.split_seed, Purpose.CLASS_SPLIT)
        if self.split == "random":
            train, validation, test = np.split(rng.permutation(len(names)), (1100, 1200))
            return {"train": train, "validation": validation, "test": test}
        subset, alphabet = np.array([name.split("/")[:2] for name in names]).T
        background = subset == "images_background"
        held_out = np.isin(alphabet, rng.permutation(np.unique(alphabet[background]))[:5])
        masks: dict[Split, np.ndarray] = {
            "train": background & ~held_out,
            "validation": background & held_out,
            "test": ~background,
        }
        return {split: np.flatnonzero(mask) for split, mask in masks.items()}

    def _data(self) -> Path | None:
        """The folder that contains both subsets, unpacked, or None."""
        root = self._path("root")
        for folder in (root, root / "omniglot-py"):
            if all((folder / subset).is_dir() for subset in CHARACTERS):
                return folder
        return None

    def _cache(self) -> Path:
        return image_cache.cache_folder(self._path("root")) / "omniglot_28.h5"


def _drawings(data: Path) -> list[tuple[str, list[Path]]]:
    """Every character with its drawings. Raises ValueError unless Omniglot is complete."""
    classes, unseen = [], LeftOut()
    for subset, whole in CHARACTERS.items():
        alphabets, _ = contents(data / subset, unseen)
        characters = [character for alphabet in alphabets for character in contents(alphabet, unseen)[0]]
        if len(characters) != whole:
            raise ValueError(
                f"task.root: {data / subset} has {len(characters)} characters where Omniglot has {whole}: unpack its "
                "archive again"
            )
        classes += [(str(character.relative_to(data)), contents(character, unseen)[1]) for character in characters]
    odd = next(((name, len(files)) for name, files in classes if len(files) != DRAWINGS), None)
    if odd is not None:
        raise ValueError(
            f"task.root: {data / odd[0]} has {odd[1]} drawings where Omniglot has {DRAWINGS}: unpack its archive again"
        )
    return classes


def _decode(file: Path) -> np.ndarray:
    return 255 - read_image(file, SHAPE)


def _download(root: Path) -> None:
    advice = (
        f"Put Omniglot's two archives, unpacked, into {root.resolve()} as {'/ and '.join(CHARACTERS)}/ "
        "(from https://github.com/brendenlake/omniglot, folder python), or name their folder by --task.root"
    )
    try:
        from torchvision.datasets import Omniglot as Download

        with locked(root / "download"):
            for background in (True, False):
                Download(str(root), background=background, download=True)
    except Exception as error:  # of network, archive or disk: the advice is the same
        raise ValueError(f"task.root: no Omniglot in {root}, and downloading it failed: {error}. {advice}") from error
