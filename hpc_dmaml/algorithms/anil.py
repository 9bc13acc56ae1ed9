"""Algorithms in which only a part of the model adapts: ANIL (almost no inner loop) and its counterpart, BOIL."""

from __future__ import annotations

from dataclasses import dataclass

from hpc_dmaml.algorithms.maml import MAML
from hpc_dmaml.parameters import Layout


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
