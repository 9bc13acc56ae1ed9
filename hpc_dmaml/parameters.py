"""A model's trainable parameters as one flat vector (P,), and as named views of it.

A module's constants are its frozen parameters and buffers: they are neither adapted nor trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Layout:
    """The positions of named parameters in the flat vector: consecutive, in the order of `names`.

    The order is that of the module that rank 0 built when the job started. It is stored in the file, and used by every
    rank and later process, whose module may have the same parameters in another order.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, module: torch.nn.Module) -> Layout:
        """The layout of a module's trainable parameters, those with `requires_grad`."""
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        return cls(tuple(named), tuple(tuple(p.shape) for p in named.values()))

    @property
    def sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes]

    @property
    def size(self) -> int:
        """P, the length of the flat vector."""
        return sum(self.sizes)

    @property
    def model(self) -> Layout:
        """The model's part of the layout: names with a colon are of what the algorithm learns besides."""
        named = {name: shape for name, shape in zip(self.names, self.shapes, strict=True) if ":" not in name}
        return Layout(tuple(named), tuple(named.values()))

    @property
    def modules(self) -> list[str]:
        """The path of each parameter's module; a parametrized one is of the module that it parametrizes."""
        return [re.sub(r"(^|\.)(parametrizations\..*|[^.]*)$", "", name) for name in self.names]

    def check_same(self, other: Layout, what: str) -> None:
        """Raise ValueError unless `other` has the same parameters, in any order; `what` names this layout's owner."""
        here, there = (dict(zip(each.names, each.shapes, strict=True)) for each in (other, self))
        for name in (*there, *here):
            if here.get(name) != there.get(name):
                found = (f"{name} {shapes[name]}" if name in shapes else f"no {name}" for shapes in (there, here))
                raise ValueError(f"{what} holds the parameters of another model: {' there, '.join(found)} here")

    def flatten(self, module: torch.nn.Module) -> torch.Tensor:
        """A copy of the module's parameters as one vector (P,)."""
        named = dict(module.named_parameters(remove_duplicate=False))
        return self.join({name: named[name].detach() for name in self.names})

    def join(self, named: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Join named tensors to a vector (P,); the inverse of `views`."""
        import torch

        return torch.cat([named[name].reshape(-1) for name in self.names])

    def fill(self, module: torch.nn.Module, flat: torch.Tensor) -> torch.nn.Module:
        """Copy the parameters in `flat` (P,) into the module."""
        for name, values in self.views(flat).items():
            module.get_parameter(name).detach().copy_(values)
        return module

    def views(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Named views (..., *shape) of `flat` (..., P)."""
        parts = flat.split(self.sizes, dim=-1)
        return {
            name: part.reshape((*flat.shape[:-1], *shape))
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }


def flatten(module: torch.nn.Module) -> torch.Tensor:
    """A copy of the module's trainable parameters as one vector (P,), in its own order."""
    return Layout.of(module).flatten(module)


def constants(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Frozen parameters and buffers by name; the module's own tensors, not copies."""
    frozen = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
    return {**frozen, **dict(module.named_buffers())}


def constant_arrays(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """The constants as numpy arrays, with booleans as 0 and 1."""
    arrays = {name: tensor.cpu().numpy() for name, tensor in constants(module).items()}
    return {name: a.view(np.uint8) if a.dtype == np.bool_ else a for name, a in arrays.items()}


def set_constants(module: torch.nn.Module, values: Mapping[str, np.ndarray], what: str) -> None:
    """Copy constants, from the source named `what`, into the module. Raises ValueError if it has no such constant."""
    import torch

    own = constants(module)
    for name, value in values.items():
        if name not in own or tuple(own[name].shape) != value.shape:
            raise ValueError(f"{what} holds a constant {name} {value.shape}, which the model here does not have")
        own[name].copy_(torch.from_numpy(np.array(value)))


def digest(flat: np.ndarray) -> str:
    """A 128-bit hash of a flat vector, as hexadecimal text."""
    import hashlib

    return hashlib.blake2b(np.ascontiguousarray(flat).tobytes(), digest_size=16).hexdigest()
