"""Small data sets in folders, and damage to files."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st
from PIL import Image

from hpc_dmaml.tasks import ImageFolder


def make_images(root: Path, classes: int = 10, images: int = 3, name: str = "class{}") -> Path:
    """Classes of a few grey or colour images, each class of one shade: class c of 20 c."""
    for c in range(classes):
        folder = root / name.format(c)
        folder.mkdir(parents=True)
        for i in range(images):
            mode, shade = (("L", 20 * c), ("RGB", (20 * c,) * 3))[i % 2]
            Image.new(mode, (12 + i, 10), shade).save(folder / f"{c}_{i}.png")
    return root


def shades(family: ImageFolder) -> dict[str, set[int]]:
    """The classes of each split, by their shade, when one task of it can be drawn."""
    family.prepare()
    sampler = family.load()
    for split in sampler.splits:
        sampler.check(split)
    return {s: {int(sampler.images[f].mean()) // 20 for f in c.first} for s, c in sampler.splits.items()}


def damaged(data, good: bytes) -> bytes:
    """Cut off, or with some bytes changed."""
    bad = bytearray(good)
    for place in data.draw(st.lists(st.integers(0, len(good) - 1), max_size=4), "places"):
        bad[place] = data.draw(st.integers(0, 255), "byte")
    return bytes(bad[: data.draw(st.integers(0, len(good)), "length")])
