"""Inner learning rates α for each parameter and inner step: θ_{k+1} = θ_k − α_k∘g_k.

Where one number serves for all, a float is enough.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from hpc_dmaml.parameters import Layout
from hpc_dmaml.requirements import is_number, is_whole, require

Per = Literal["all", "layer", "parameter"]


class Rates(NamedTuple):
    """Inner learning rates that differ between parameters or steps, or are learned."""

    layout: Layout
    """Names and shapes of `values`."""
    values: Tensor
    """(Q,), in units of `scale`."""
    places: Tensor
    """(S, P) int64: index into `values` for each of S steps and each parameter; Q for a parameter that does not adapt.
    Further steps use the last row."""
    learned: bool
    """Whether the values are learned along with θ."""
    scale: float = 1.0
    fixed: frozenset[str] = frozenset()
    """Names of the parameters of θ that do not adapt."""
    of: Layout | None = None
    """Names and shapes of the parameters in θ."""

    def to(self, theta: Tensor) -> Rates:
        """The rates on θ's device and in its precision."""
        return self._replace(values=self.values.to(theta.device, theta.dtype), places=self.places.to(theta.device))

    def row(self, step: int) -> int:
        """The row of `places` for an inner step."""
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
    """Rates with one initial value: a rate for all parameters, for each layer (module), or for each parameter.

    Args:
        layout: names and shapes of the parameters in θ.
        steps: number of inner steps with rates of their own; 1 for the same rates in all.
        adapted: name patterns of the parameters that adapt (* matches anything); the others stay fixed.
        scale: the unit in which the values are kept and learned.

    Raises ValueError for arguments out of range, or if a pattern matches no parameter.
    """
    require(per in get_args(Per), "per", repr(per), " or ".join(get_args(Per)))
    require(is_number(initial) and initial >= 0, "initial", repr(initial), "a number, 0 or more")
    require(is_number(scale) and scale > 0, "scale", repr(scale), "positive")
    require(is_whole(steps, least=1), "steps", repr(steps), "a whole number, 1 or more")
    require(not isinstance(adapted, str), "adapted", repr(adapted), "a list of patterns")
    chosen = matching(layout, adapted)
    names: list[str] = []
    shapes: list[tuple[int, ...]] = []
    index: list[Tensor] = []
    starts: dict[str, int] = {}
    total = 0
    for name, module, shape, size in zip(layout.names, layout.modules, layout.shapes, layout.sizes, strict=True):
        if name not in chosen:
            index.append(torch.full((steps, size), -1))
            continue
        key = {"all": "*", "layer": module, "parameter": name}[per]
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
    fixed = frozenset(layout.names) - chosen
    return Rates(Layout(tuple(names), tuple(shapes)), values, places, learned, scale, fixed, layout)


def matching(layout: Layout, patterns: Iterable[str]) -> set[str]:
    """The names of the parameters that match a pattern. Raises ValueError if a pattern matches none."""
    found: set[str] = set()
    for pattern in patterns:
        names = {name for name in layout.names if name == pattern or fnmatchcase(name, pattern)}
        if not names:
            raise ValueError(
                f"algorithm: no parameter of the model is named {pattern!r}; there are {', '.join(layout.names)}"
            )
        found |= names
    return found
