"""Find the image files in a folder, and read them as they are displayed."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
HIDDEN = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "thumbs.db"}
"""System files and folders to skip, besides names that begin with a dot (such as macOS's companion files)."""


@dataclass
class LeftOut:
    """Numbers of files and folders that were skipped, by reason."""

    files: Counter[str] = field(default_factory=Counter)
    folders: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        """For example: 12 files: .txt (10), .npy (2); 1 folder: hidden (1)."""
        counts = (("file", +self.files), ("folder", +self.folders))  # +: without those that are 0
        return "; ".join(
            f"{count.total()} {kind}{'s' * (count.total() > 1)}: "
            + ", ".join(f"{reason} ({number})" for reason, number in count.most_common())
            for kind, count in counts
            if count
        )


def contents(folder: Path, left_out: LeftOut) -> tuple[list[Path], list[Path]]:
    """The folders and the image files in a folder, sorted by name. Raises ValueError for a broken link."""
    folders, images = [], []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = folder / entry.name
            if entry.name.startswith(".") or entry.name.lower() in HIDDEN:
                (left_out.folders if entry.is_dir() else left_out.files)["hidden"] += 1
            elif entry.is_dir():
                folders.append(path)
            elif entry.is_symlink() and not path.exists():
                raise ValueError(f"{path} is a broken link: {path.readlink()} does not exist")
            elif entry.is_file() and path.suffix.lower() in SUFFIXES:
                images.append(path)
            else:
                left_out.files[path.suffix.lower() or "no suffix"] += 1
    return folders, images


def read_image(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Read an image file as (C, H, W) uint8, resized if necessary; one channel means grey.

    It is read as it is displayed, by the same rules for every file: rotated by its EXIF orientation, transparent parts
    on white, 16-bit grey with 65535 as white, palettes and other colour spaces as RGB. Raises ValueError, naming the
    file, if it is corrupt or the rules do not apply: pixel types without a defined white (32-bit, floating point),
    several images in one file, a transparent drawing that is invisible on white.
    """
    from PIL import Image, ImageOps

    channels, height, width = shape
    try:
        with Image.open(path, formats=FORMATS) as image:
            if (
                getattr(image, "is_animated", False) and image.format != "MPO"
            ):  # MPO: a camera's photograph with auxiliary images
                raise ValueError("it is a sequence of images; save the one to use as a separate file")
            ImageOps.exif_transpose(image, in_place=True)
            seen = _on_white(_in_8_bits(image)).convert("RGB")
    except Exception as error:  # a corrupt file can raise anything, by its format
        raise ValueError(f"{path} is not a readable image: {error}") from error
    if channels == 1:
        seen = seen.convert("L")
    if seen.size != (width, height):
        seen = seen.resize((width, height), Image.Resampling.LANCZOS)
    return np.moveaxis(np.asarray(seen).reshape(height, width, channels), -1, 0)


def _in_8_bits(image: Image) -> Image:
    """Convert a grey image of up to 16 bits to 8 bits, with the type's greatest number as white; keep other images."""
    from PIL import Image

    # Pillow gives the 16 bits of a PNG or PGM as mode I in some versions; in other formats I is 32 bits or signed.
    if not (image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))):
        if image.mode in ("I", "F"):
            kind = "whole" if image.mode == "I" else "floating-point"
            raise ValueError(f"it is not defined what is white in its {kind} numbers; save it with 8 or 16 bits")
        return image
    tags = getattr(image, "tag_v2", {})  # of a TIFF file
    white = 2 ** tags.get(258, (16,))[0] - 1
    numbers = np.asarray(image).astype(np.int64)
    grey = (numbers * 255 + white // 2) // white
    seen = Image.fromarray((255 - grey if tags.get(262) == 0 else grey).astype(np.uint8))
    if "transparency" in image.info:
        seen.putalpha(Image.fromarray(np.where(numbers == image.info["transparency"], 0, 255).astype(np.uint8)))
    return seen


def _on_white(image: Image) -> Image:
    """Put an image with transparent parts on a white background."""
    from PIL import Image

    if not image.has_transparency_data:
        return image
    drawn = image.convert("RGBA")
    seen = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)
    if _is_plain(seen) and not _is_plain(drawn):
        raise ValueError("it is transparent, and is not visible on white; save it without transparency")
    return seen


def _is_plain(image: Image) -> bool:
    """Whether all pixels have one colour."""
    pixels = np.asarray(image)
    return bool((pixels == pixels[0, 0]).all())
