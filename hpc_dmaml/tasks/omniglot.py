"""Omniglot: 1,623 handwritten characters, each drawn by 20 people (Lake, Salakhutdinov & Tenenbaum, 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hpc_dmaml.files import locked
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.tasks import image_cache
from hpc_dmaml.tasks.family import Split
from hpc_dmaml.tasks.image_classes import Classes, FewShotImages, FewShotSampler

SUBSETS = ("images_background", "images_evaluation")
SHAPE = (1, 28, 28)


@dataclass(frozen=True)
class Omniglot(FewShotImages):
    """Handwritten characters, 28 × 28, white on black; downloaded into `root` on first use, or found there."""

    root: str = "data/omniglot"
    """Folder of the data: holds images_background/ and images_evaluation/, or gets them by download."""
    split: Literal["random", "lake"] = "random"
    """random: 1,100 / 100 / 423 characters, as Finn; lake: train on 25 of the background alphabets, validate on the
    other 5, test on the evaluation alphabets."""
    split_seed: int = 0
    """Which random split; runs with different seeds share it."""
    rotations: bool = True
    """Each character turned by 90°, 180° and 270° is a class of its own."""

    def prepare(self) -> None:
        folder = Path(self.root)
        if self._data() is None:
            _download(folder)
        data = self._data()
        if data is None:
            raise ValueError(f"task.root: after the download, {folder} still lacks {' or '.join(SUBSETS)}")
        classes = [
            (str(character.relative_to(data)), sorted(character.glob("*.png")))
            for subset in SUBSETS
            for character in sorted((data / subset).glob("*/character*"))
        ]
        if not classes or not all(files for _, files in classes):
            raise ValueError(
                f"task.root: {data} holds no drawings, or a character without any: unpack the archives again"
            )
        listing = image_cache.folder_listing(data, (file for _, files in classes for file in files))
        mark = image_cache.fingerprint(SHAPE, listing)
        image_cache.build(self._cache(), mark, classes, SHAPE, _decode, "Omniglot")

    def load(self) -> FewShotSampler:
        images, names, first, count = image_cache.load(self._cache())
        splits: dict[Split, Classes] = {
            split: Classes.of(first[numbers], count[numbers], self.rotations)
            for split, numbers in self._characters(names).items()
        }
        return FewShotSampler(images, splits, self)

    def _characters(self, names: list[str]) -> dict[Split, np.ndarray]:
        """The numbers of each split's characters."""
        rng = generator(self.split_seed, Purpose.CLASS_SPLIT)
        if self.split == "random":
            train, validation, test = np.split(rng.permutation(len(names)), (1100, 1200))
            return {"train": train, "validation": validation, "test": test}
        subset, alphabet = np.array([name.split("/")[:2] for name in names]).T
        background = subset == SUBSETS[0]
        held_out = np.isin(alphabet, rng.permutation(np.unique(alphabet[background]))[:5])
        masks: dict[Split, np.ndarray] = {
            "train": background & ~held_out,
            "validation": background & held_out,
            "test": ~background,
        }
        return {split: np.flatnonzero(mask) for split, mask in masks.items()}

    def _data(self) -> Path | None:
        """The folder that holds both subsets, unpacked."""
        for folder in (Path(self.root), Path(self.root) / "omniglot-py"):
            if all((folder / subset).is_dir() for subset in SUBSETS):
                return folder
        return None

    def _cache(self) -> Path:
        return image_cache.cache_folder(Path(self.root)) / "omniglot_28.h5"


def _decode(file: Path) -> np.ndarray:
    return 255 - image_cache.read_image(file, SHAPE)


def _download(root: Path) -> None:
    advice = (
        f"Put Omniglot's two archives, unpacked, into {root.resolve()} as {SUBSETS[0]}/ and {SUBSETS[1]}/ "
        "(from https://github.com/brendenlake/omniglot, folder python), or name their folder by --task.root"
    )
    try:
        from torchvision.datasets import Omniglot as Download

        with locked(root / "download"):
            for background in (True, False):
                Download(str(root), background=background, download=True)
    except Exception as error:  # whatever the network, the archive or the disk did, the advice is the same
        raise ValueError(f"task.root: no Omniglot in {root}, and downloading it failed: {error}. {advice}") from error
