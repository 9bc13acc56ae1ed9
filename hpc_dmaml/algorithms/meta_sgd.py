"""Algorithms that learn their inner rates, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_dmaml.algorithms.maml import MAML
from hpc_dmaml.parameters import Layout
from hpc_dmaml.requirements import positive

if TYPE_CHECKING:
    from hpc_dmaml.engine import Rates


@dataclass(frozen=True)
class MetaSGD(MAML):
    """MAML with a learned inner rate for each parameter, `inner_lr` at first (Li et al., 2017)."""

    scale: float = 1.0
    """What is learned, and stands in the file, is α / scale; 1 as in the papers. An outer Adam moves a rate by about scale times
    its own: where inner rates are small, 1 is too much, and `inner_lr` changes them in proportion."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("algorithm.scale", self.scale)

    def rates(self, layout: Layout) -> Rates:
        from hpc_dmaml.engine import rates

        patterns = self.patterns(layout)
        return rates(layout, self.inner_lr, "parameter", adapted=patterns, learned=True, scale=self.scale)


@dataclass(frozen=True)
class LSLR(MetaSGD):
    """MAML with a learned inner rate for each layer and inner step, `inner_lr` at first (Antoniou et al., 2019, section 4).

    Steps beyond those of the training take the last one's rates.
    """

    def rates(self, layout: Layout) -> Rates:
        from hpc_dmaml.engine import rates

        steps, patterns = max(1, self.inner_steps), self.patterns(layout)
        return rates(layout, self.inner_lr, "layer", steps, adapted=patterns, learned=True, scale=self.scale)
