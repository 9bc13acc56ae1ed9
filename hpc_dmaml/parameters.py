"""Flat at the border, named inside: a model's parameters as one vector (P,), and as named views of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Layout:
    """Where each named parameter stands in the flat vector: consecutive, in the order of `names`."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, module: torch.nn.Module) -> Layout:
        named = dict(module.named_parameters())
        return cls(tuple(named), tuple(tuple(p.shape) for p in named.values()))

    @property
    def sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes]

    @property
    def size(self) -> int:
        """P, the length of the flat vector."""
        return sum(self.sizes)

    def views(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Named views (..., *shape) of `flat` (..., P)."""
        parts = flat.split(self.sizes, dim=-1)
        return {
            name: part.reshape(*flat.shape[:-1], *shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }


def flatten(module: torch.nn.Module) -> torch.Tensor:
    """A copy of the module's parameters as one vector (P,), in `Layout.of(module)`'s order."""
    import torch

    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def digest(flat: np.ndarray) -> str:
    """A short fingerprint of a flat vector: equal vectors, and practically only those, have equal ones."""
    import hashlib

    return hashlib.blake2b(np.ascontiguousarray(flat).tobytes(), digest_size=16).hexdigest()
