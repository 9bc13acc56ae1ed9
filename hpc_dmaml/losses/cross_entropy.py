"""Cross-entropy, for classification."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpc_dmaml.losses.loss import Loss
from hpc_dmaml.losses.metric import ACCURACY

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Mean softmax cross-entropy; targets are class numbers (B, n) int64."""

    metric = ACCURACY
    targets = "classes"

    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        import torch.nn.functional as F

        return F.cross_entropy(z.transpose(1, 2), targets, reduction="none").mean(1)

    def measure(self, z: Tensor, targets: Tensor) -> Tensor:
        right = (z.argmax(-1) == targets).to(z.dtype).mean(1)
        return right.masked_fill(z.isnan().flatten(1).any(1), math.nan)  # argmax of NaN is class 0

    def mean_prediction(self, z: Tensor) -> Tensor:
        """The logarithm of the mean of the class probabilities."""
        return z.log_softmax(-1).logsumexp(0) - math.log(len(z))

    def gradient(self, z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Any]:
        log_p = z.log_softmax(-1)
        index = targets.unsqueeze(-1)
        losses = -log_p.gather(-1, index).squeeze(-1).mean(1)
        p = log_p.exp()
        z_bar = p.scatter_add(-1, index, p.new_full((), -1.0).expand(index.shape)).div_(z.shape[1])
        return losses, z_bar, p

    def tangent(self, tape: Any, z_dot: Tensor) -> Tensor:
        p = tape
        change = p * z_dot
        return change.addcmul_(p, change.sum(-1, keepdim=True), value=-1).div_(p.shape[1])
