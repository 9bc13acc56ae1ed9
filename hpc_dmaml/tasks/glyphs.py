"""Printed letters of real scripts in matplotlib's typefaces: few-shot images that need no download."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.tasks import image_cache
from hpc_dmaml.tasks.family import Split
from hpc_dmaml.tasks.image_classes import Classes, FewShotImages, FewShotSampler

FACES = [
    f"DejaVu{family}{style}.ttf"
    for family, slanted in (("Sans", "Oblique"), ("SansMono", "Oblique"), ("Serif", "Italic"))
    for style in ("", "-Bold", f"-{slanted}", f"-Bold{slanted}")
]
SCRIPTS: dict[str, Split] = {
    "LATIN": "train",
    "GREEK": "train",
    "CYRILLIC": "train",
    "ARMENIAN": "validation",
    "GEORGIAN": "test",
}
SHAPE = (1, 28, 28)
COPIES = 2
"""Number of distorted drawings of a letter in each face."""


@dataclass(frozen=True)
class Glyphs(FewShotImages):
    """Letters, 28 × 28, white on black: train on Latin, Greek and Cyrillic, validate on Armenian, test on Georgian.

    Each class has its own outline: letters that look the same, like the Latin, Greek and Cyrillic A, are one class.
    Twelve faces with two small random distortions each give its 24 drawings.
    """

    rotations: bool = True
    """Add each letter rotated by 90°, 180° and 270° as further classes."""

    def prepare(self) -> str:
        rng = generator(0, Purpose.RENDERING)
        # What determines the letters; `_letters` itself takes a second.
        source = (SHAPE, FACES, SCRIPTS, COPIES, unicodedata.unidata_version, version("matplotlib"))
        mark = image_cache.fingerprint(*source)
        return image_cache.build(
            self._cache(), mark, _classes(), SHAPE, "printed letters", lambda item: _draw(item[0], item[1], rng)
        )

    def load(self) -> FewShotSampler:
        images, names, first, count, digest = image_cache.load(self._cache())
        split_of = np.array([name.split()[0] for name in names])
        splits: dict[Split, Classes] = {
            split: Classes.of(first[split_of == split], count[split_of == split], self.rotations)
            for split in ("train", "validation", "test")
        }
        return FewShotSampler(images, splits, self, digest)

    def _cache(self) -> Path:
        return image_cache.cache_folder() / "glyphs_28.h5"


def _classes() -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Yield each letter's name, and the code and face of each of its drawings."""
    for code in _letters():
        yield f"{SCRIPTS[_script(code)]} {chr(code)}", [(code, face) for face in FACES for _ in range(COPIES)]


def _script(code: int) -> str:
    return unicodedata.name(chr(code), "").split(" ")[0]


def _letters() -> list[int]:
    """Codes of the five scripts' letters that every face has, one for each outline, training scripts first."""
    from matplotlib.ft2font import FT2Font, LoadFlags

    fonts = [FT2Font(_face_path(face)) for face in FACES]
    common = set.intersection(*(set(font.get_charmap()) for font in fonts))
    letters = [c for c in common if unicodedata.category(chr(c)) in ("Lu", "Ll", "Lo") and _script(c) in SCRIPTS]
    letters.sort(key=lambda c: (list(SCRIPTS).index(_script(c)), c))
    seen: set[tuple[str, bytes]] = set()
    distinct = []
    for code in letters:
        outlines = set()
        for face, font in zip(FACES, fonts, strict=True):
            font.load_char(code, LoadFlags.NO_HINTING | LoadFlags.NO_SCALE)
            outlines.add((face, font.get_path()[0].tobytes()))
        if not outlines & seen:  # the same outline in one face is one too many
            distinct.append(code)
        seen |= outlines
    return distinct


def _draw(code: int, face: str, rng: np.random.Generator) -> np.ndarray:
    """One distorted drawing (1, 28, 28): centred, rotated by up to ±10°, and slightly sheared, scaled and shifted."""
    from PIL import Image, ImageDraw

    side, letter, font = 56, chr(code), _font(face)
    left, top, right, bottom = font.getbbox(letter)
    page = Image.new("L", (side, side))
    ImageDraw.Draw(page).text(((side - left - right) / 2, (side - top - bottom) / 2), letter, font=font, fill=255)
    angle, shear = rng.uniform(-np.pi / 18, np.pi / 18), rng.uniform(-0.1, 0.1)
    scale = rng.uniform(0.9, 1.1, 2) * max(right - left, bottom - top) / (0.75 * side)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[scale[0], shear * scale[1]], [0, scale[1]]])
    centre = np.full(2, side / 2)
    shift = centre - matrix @ (centre + rng.uniform(-0.06, 0.06, 2) * side)
    row_1, row_2 = np.column_stack([matrix, shift]).tolist()
    distorted = page.transform((side, side), Image.Transform.AFFINE, (*row_1, *row_2), Image.Resampling.BILINEAR)
    return np.asarray(distorted.resize(SHAPE[1:], Image.Resampling.BOX))[None]


def _face_path(face: str) -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / face


@cache
def _font(face: str) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(_face_path(face), 36)
