"""Inner rates α: how far a task steps along its gradient, for each parameter and inner step.

With a rate for each, a step is θ_{k+1} = θ_k − α_k∘g_k. All that adapt by one number need no more than a float.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hpc_dmaml.parameters import Layout

Per = Literal["all", "layer", "parameter"]


class Rates(NamedTuple):
    """Rates that are not one and the same number."""

    layout: Layout
    """Of `values`, by name."""
    values: Tensor
    """(Q,), in units of `scale`."""
    places: Tensor
    """(S, P) int64: which of the values is whose in each of S steps, Q for a parameter that does not adapt; further steps
    are like the last."""
    learned: bool
    """Are the values learned as θ is?"""
    scale: float = 1.0

    def to(self, theta: Tensor) -> Rates:
        """The same where θ is, and of its precision."""
        return self._replace(values=self.values.to(theta.device, theta.dtype), places=self.places.to(theta.device))

    def row(self, step: int) -> int:
        """Where in `places` an inner step finds its rates."""
        return min(step, len(self.places) - 1)

    def each(self) -> Tensor:
        """α of every parameter, (S, P)."""
        values = self.values if self.scale == 1 else self.scale * self.values
        padded = torch.cat([values, values.new_zeros(1)])
        return padded.index_select(0, self.places.view(-1)).view(self.places.shape)

    def gather(self, by_parameter: Tensor) -> Tensor:
        """dL/dvalues (Q,), from dL/dα of every parameter (S, P)."""
        total = by_parameter.new_zeros(len(self.values) + 1)
        total.index_add_(0, self.places.view(-1), by_parameter.view(-1))
        return total[:-1] if self.scale == 1 else self.scale * total[:-1]


def rates(
    layout: Layout,
    initial: float,
    per: Per = "all",
    steps: int = 1,
    adapted: Iterable[str] = ("*",),
    learned: bool = False,
    scale: float = 1.0,
) -> Rates:
    """Rates that start at one value: one for all parameters, for each layer (module), or for each parameter.

    Args:
        layout: of θ.
        steps: inner steps that have rates of their own; 1 for the same in all.
        adapted: patterns of the parameters' names that adapt at all (* stands for anything).
        scale: the unit in which the values are kept, and learned.

    Raises ValueError where a pattern is no parameter's.
    """
    chosen = matching(layout, adapted)
    names: list[str] = []
    shapes: list[tuple[int, ...]] = []
    index: list[Tensor] = []
    starts: dict[str, int] = {}
    total = 0
    for name, shape, size in zip(layout.names, layout.shapes, layout.sizes, strict=True):
        if name not in chosen:
            index.append(torch.full((steps, size), -1))
            continue
        key = {"all": "*", "layer": name.rpartition(".")[0], "parameter": name}[per]
        own = shape if per == "parameter" else ()
        width = size if per == "parameter" else 1
        if key not in starts:
            starts[key] = total
            total += steps * width
            names.append(f"inner_lr:{key}")
            shapes.append((steps, *own) if steps > 1 else own)
        first = starts[key] + width * torch.arange(steps)[:, None]
        index.append(first + (torch.arange(size) if per == "parameter" else torch.zeros(size, dtype=torch.int64)))
    places = torch.cat(index, 1)
    places[places < 0] = total
    values = torch.full((total,), initial / scale, dtype=torch.float64)
    return Rates(Layout(tuple(names), tuple(shapes)), values, places, learned, scale)


def matching(layout: Layout, patterns: Iterable[str]) -> set[str]:
    """The names of the parameters that one of the patterns is for. Raises ValueError where one is for none."""
    found: set[str] = set()
    for pattern in patterns:
        names = {name for name in layout.names if fnmatchcase(name, pattern)}
        if not names:
            raise ValueError(
                f"algorithm: no parameter of the model is named {pattern!r}; there are {', '.join(layout.names)}"
            )
        found |= names
    return found
