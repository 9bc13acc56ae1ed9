"""Random augmentation of training images: mirroring, shifts, and changes of colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CHANCES = 6
"""Random numbers drawn per image, whatever is enabled: mirror, two for the shift, brightness, contrast, saturation."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


@dataclass(frozen=True)
class Augmentation:
    """Augments each image independently. Raises ValueError for amounts out of range."""

    flip: bool = False
    shift: int = 0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise ValueError(f"task.shift must be 0 or more pixels, not {self.shift}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"task.jitter must be between 0 and 1, not {self.jitter}")

    def __bool__(self) -> bool:
        return bool(self.flip or self.shift or self.jitter)

    def apply(self, images: np.ndarray, chances: np.ndarray) -> np.ndarray:
        """Augment images (..., C, H, W) uint8 by `chances` (..., CHANCES), random numbers in [0, 1).

        May modify `images` in place.
        """
        flat, chances = images.reshape(-1, *images.shape[-3:]), chances.reshape(-1, CHANCES)
        if self.flip:
            mirrored = np.flatnonzero(chances[:, 0] < 0.5)
            flat[mirrored] = flat[mirrored, ..., ::-1]
        if self.shift:
            flat = moved(flat, (chances[:, 1:3] * (2 * self.shift + 1)).astype(np.int64), self.shift)
        if self.jitter:
            flat = recoloured(flat, 1 + self.jitter * (2 * chances[:, 3:] - 1))
        return flat.reshape(images.shape)


def moved(images: np.ndarray, corners: np.ndarray, margin: int) -> np.ndarray:
    """Add a black margin around images (n, C, H, W) and crop each to its size at `corners` (n, 2), row and column."""
    n, channels, height, width = images.shape
    wide = np.zeros((n, channels, height + 2 * margin, width + 2 * margin), images.dtype)
    wide[:, :, margin : margin + height, margin : margin + width] = images
    parts = np.lib.stride_tricks.sliding_window_view(wide, (height, width), (2, 3))
    return parts[np.arange(n), :, corners[:, 0], corners[:, 1]]


def recoloured(images: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Multiply brightness, contrast and saturation of images (n, C, H, W) by `factors` (n, 3).

    All three are linear in an image's colours: one matrix applies them to all its pixels, with one rounding to bytes.
    Contrast is relative to the image's mean grey, saturation to each pixel's grey (no change with one channel).
    """
    n, channels, height, width = images.shape
    grey = LUMA if channels == 3 else np.full(channels, 1 / channels, np.float32)
    pixels = images.reshape(n, channels, height * width).astype(np.float32)
    brightness, contrast, saturation = factors.astype(np.float32).T[..., None]
    mixed = saturation[..., None] * np.eye(channels, dtype=np.float32) + (1 - saturation[..., None]) * grey
    offset = (1 - contrast) * brightness * (pixels.mean(2) @ grey)[:, None] + 0.5  # rounds when truncated below
    pixels = (brightness * contrast)[..., None] * mixed @ pixels
    pixels += offset[..., None]
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8).reshape(images.shape)
