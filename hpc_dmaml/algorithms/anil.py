"""Algorithms in which only a part of the model adapts: ANIL (almost no inner loop) and its counterpart, BOIL."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_dmaml.algorithms.algorithm import Algorithm
from hpc_dmaml.algorithms.maml import MAML
from hpc_dmaml.parameters import Layout

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class ANIL(MAML):
    """MAML in which only the head adapts (Raghu et al., 2020): the model's last layer, or what `adapted` names."""

    def patterns(self, layout: Layout) -> tuple[str, ...]:
        return tuple(head(layout)) if self.adapted == ("*",) else self.adapted


@dataclass(frozen=True)
class BOIL(MAML):
    """MAML in which only the body adapts (Oh et al., 2021): all but the model's last layer, or what `adapted` names."""

    def patterns(self, layout: Layout) -> tuple[str, ...]:
        if self.adapted != ("*",):
            return self.adapted
        body = [name for name in layout.names if name not in head(layout)]
        if not body:
            raise ValueError("algorithm: BOIL adapts all but the last layer, and the model has one layer alone")
        return tuple(body)


def check_head(algorithm: Algorithm, layout: Layout, module: nn.Module, x: Tensor) -> None:
    """Raise ValueError where ANIL or BOIL would take another layer for the last than the one that is called last on the
    samples x (n, …) of a task."""
    if not isinstance(algorithm, ANIL | BOIL) or algorithm.adapted != ("*",):
        return
    watched, calls = copy.deepcopy(module), [""]
    weighted = [path for path, shape in zip(layout.modules, layout.shapes, strict=True) if len(shape) > 1]
    for path in filter(None, dict.fromkeys(weighted)):
        if not any(other.startswith(f"{path}.") for other in weighted):
            watched.get_submodule(path).register_forward_hook(lambda *_, path=path: calls.append(path))
    watched(x)
    taken, called = head(layout), calls[-1]
    known = weighted and weighted[-1] in calls  # else its weights are used without a call
    if known and called and not any(name.startswith(f"{called}.") for name in taken):
        raise ValueError(
            f"algorithm: {type(algorithm).__name__} would take {taken[0]} for the model's last layer, as it is registered "
            f"last, but {called} is called last. Register that last, or name what adapts: algorithm.adapted"
        )


def head(layout: Layout) -> list[str]:
    """The names of the parameters of the model's last layer: those in the module with the last matrix or kernel, and
    what follows them, such as a policy's log σ. Raises ValueError where a bias follows whose weight is not trained with
    it. (A last layer without bias whose weight is tied to another layer's cannot be noticed.)"""
    weighted = [place for place, shape in enumerate(layout.shapes) if len(shape) > 1]
    last = weighted[-1] if weighted else len(layout.names) - 1
    modules = layout.modules
    for name, module in zip(layout.names[last:], modules[last:], strict=True):
        if module != modules[last] and name == f"{module}.bias" and f"{module}.weight" not in layout.names:
            raise ValueError(
                f"algorithm: which layer is the last cannot be told: {name} has no weight to be trained with it, as where it "
                "is tied to another layer's. Name what adapts: algorithm.adapted"
            )
    return [name for place, name in enumerate(layout.names) if place > last or modules[place] == modules[last]]
