"""Algorithms that learn their inner rates, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_dmaml.algorithms.maml import MAML
from hpc_dmaml.parameters import Layout

if TYPE_CHECKING:
    from hpc_dmaml.engine import Rates


@dataclass(frozen=True)
class MetaSGD(MAML):
    """MAML with a learned inner rate for each parameter, `inner_lr` at first (Li et al., 2017)."""

    def rates(self, layout: Layout) -> Rates:
        from hpc_dmaml.engine import rates

        return rates(layout, self.inner_lr, "parameter", adapted=self.patterns(layout), learned=True)


@dataclass(frozen=True)
class LSLR(MAML):
    """MAML with a learned inner rate for each layer and inner step, `inner_lr` at first (Antoniou et al., 2019, section 4).

    Steps beyond those of the training take the last one's rates.
    """

    def rates(self, layout: Layout) -> Rates:
        from hpc_dmaml.engine import rates

        steps = max(1, self.inner_steps)
        return rates(layout, self.inner_lr, "layer", steps, adapted=self.patterns(layout), learned=True)
