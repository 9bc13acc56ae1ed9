"""Algorithms that also learn their inner learning rates."""

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
    """MAML with a learned inner learning rate for each parameter, initially `inner_lr` (Li et al., 2017)."""

    scale: float = 1.0
    """Unit of the learned rates: α / scale is learned and stored in the file; 1 as in the papers. An outer Adam changes
    α by about scale × its learning rate a step: where α is small, 1 is too much, and `inner_lr` fits its size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("algorithm.scale", self.scale)

    def rates(self, layout: Layout) -> Rates:
        from hpc_dmaml.engine import rates

        patterns = self.patterns(layout)
        return rates(layout, self.inner_lr, "parameter", adapted=patterns, learned=True, scale=self.scale)


@dataclass(frozen=True)
class LSLR(MetaSGD):
    """MAML with a learned inner rate per layer and inner step, initially `inner_lr` (Antoniou et al., 2019, section 4).

    Steps beyond those of training use the rates of the last one.
    """

    def rates(self, layout: Layout) -> Rates:
        from hpc_dmaml.engine import rates

        steps, patterns = max(1, self.inner_steps), self.patterns(layout)
        return rates(layout, self.inner_lr, "layer", steps, adapted=patterns, learned=True, scale=self.scale)
