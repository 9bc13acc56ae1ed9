"""Reinforcement learning: the policy gradient of sampled trajectories, as a loss with its two derivatives.

A sample is a step of a trajectory. Its target is a vector (A + 4,): the action (A numbers, or 1 for the index of a
discrete one), its advantage Â, a weight w, 1 if the step was made and 0 if the trajectory had ended before, and the
step's contributions to the task's mean return and success rate. The loss of a task is

    L = −Σ w Â log π(a|s) / Σ w              "log_probability": MAML's estimator (Finn et al., 2017)
    L = −Σ w Â π(a|s) / stop(π(a|s)) / Σ w   "ratio": the same gradient, a Hessian of low variance (Rothfuss et al., 2019)

Advantages are normalised, so that L itself is not informative: −return is reported instead.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hpc_dmaml.losses.loss import Loss
from hpc_dmaml.losses.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor

MADE = -3
"""The column of the targets with the weight w: whether the step was made (1) or not (0)."""
RETURN, SUCCESS = Metric("return"), Metric("success", "share")


class Parts(NamedTuple):
    """The columns of the targets."""

    action: Tensor
    """(B, n, A)"""
    scale: Tensor
    """−w Â / Σ w, (B, n, 1)"""
    earned: Tensor
    """Contributions to the mean return, (B, n): their sum over n."""
    success: Tensor
    """Contributions to the success rate, (B, n): their sum over n."""


@dataclass(frozen=True)
class PolicyGradient(Loss):
    """Base class of the policy gradients; a subclass adds log π and its derivatives."""

    targets = "any"
    form: Literal["log_probability", "ratio"] = "log_probability"
    """The surrogate loss: both have the same gradient, but different second derivatives."""
    judged_by: Literal["return", "success"] = "return"
    """The metric of a task: the mean return or the success rate of its trajectories."""

    @property
    def metric(self) -> Metric:  # type: ignore[override]
        return SUCCESS if self.judged_by == "success" else RETURN

    @property
    def stops_gradients(self) -> bool:
        return self.form == "ratio"

    @abstractmethod
    def log_probability(self, z: Tensor, action: Tensor) -> Tensor:
        """log π(a|s), (B, n, 1)."""

    @abstractmethod
    def score(self, z: Tensor, action: Tensor) -> tuple[Tensor, Any]:
        """∂ log π / ∂z, (B, n, C), and a tape."""

    @abstractmethod
    def score_tangent(self, tape: Any, z_dot: Tensor) -> Tensor:
        """The derivative of the score along z_dot, (B, n, C)."""

    @abstractmethod
    def divergence(self, old: Tensor, z: Tensor) -> Tensor:
        """KL(π_old ‖ π) of the policies with these outputs, (B, n, 1)."""

    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        at = split(targets)
        log_p = self.log_probability(z, at.action)
        if self.form == "ratio":
            log_p = (log_p - log_p.detach()).exp()
        return (at.scale * log_p).sum((1, 2))

    def measure(self, z: Tensor, targets: Tensor) -> Tensor:
        at = split(targets)
        return (at.success if self.judged_by == "success" else at.earned).sum(1)

    def reported(self, losses: Tensor, z: Tensor, targets: Tensor) -> Tensor:
        return -split(targets).earned.sum(1)

    def gradient(self, z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Any]:
        at = split(targets)
        score, tape = self.score(z, at.action)
        return self.value(z, targets), at.scale * score, (at.scale, score, tape)

    def tangent(self, tape: Any, z_dot: Tensor) -> Tensor:
        scale, score, at = tape
        change = self.score_tangent(at, z_dot)
        if self.form == "ratio":
            change = change + score * (score * z_dot).sum(-1, keepdim=True)
        return scale * change


@dataclass(frozen=True)
class GaussianPolicyGradient(PolicyGradient):
    """For continuous actions; outputs z are (mean, log σ), each of the action's length."""

    def log_probability(self, z: Tensor, action: Tensor) -> Tensor:
        mean, log_sigma = z.chunk(2, -1)
        away = (action - mean) * (-log_sigma).exp()
        constant = action.shape[-1] * math.log(2 * math.pi) / 2
        return (-away.square() / 2 - log_sigma).sum(-1, keepdim=True) - constant

    def divergence(self, old: Tensor, z: Tensor) -> Tensor:
        (old_mean, old_log_sigma), (mean, log_sigma) = old.chunk(2, -1), z.chunk(2, -1)
        spread = (2 * old_log_sigma).exp() + (old_mean - mean).square()
        return (log_sigma - old_log_sigma + spread * (-2 * log_sigma).exp() / 2 - 0.5).sum(-1, keepdim=True)

    def score(self, z: Tensor, action: Tensor) -> tuple[Tensor, Any]:
        import torch

        mean, log_sigma = z.chunk(2, -1)
        inverse = (-log_sigma).exp()
        away = (action - mean) * inverse
        return torch.cat([away * inverse, away.square() - 1], -1), (away, inverse)

    def score_tangent(self, tape: Any, z_dot: Tensor) -> Tensor:
        import torch

        away, inverse = tape
        mean_dot, log_sigma_dot = z_dot.chunk(2, -1)
        away_dot = -(mean_dot * inverse + away * log_sigma_dot)
        return torch.cat([inverse * (away_dot - away * log_sigma_dot), 2 * away * away_dot], -1)


@dataclass(frozen=True)
class CategoricalPolicyGradient(PolicyGradient):
    """For discrete actions; outputs z are logits."""

    def log_probability(self, z: Tensor, action: Tensor) -> Tensor:
        return z.log_softmax(-1).gather(-1, action.long())

    def divergence(self, old: Tensor, z: Tensor) -> Tensor:
        log_old = old.log_softmax(-1)
        return (log_old.exp() * (log_old - z.log_softmax(-1))).sum(-1, keepdim=True)

    def score(self, z: Tensor, action: Tensor) -> tuple[Tensor, Any]:
        p = z.softmax(-1)
        return (-p).scatter_add(-1, action.long(), p.new_ones(()).expand(action.shape)), p

    def score_tangent(self, tape: Any, z_dot: Tensor) -> Tensor:
        p = tape
        return p * ((p * z_dot).sum(-1, keepdim=True) - z_dot)


@dataclass(frozen=True)
class Divergence(Loss):
    """Mean KL divergence from the old policy; targets (B, n, C + 1) are its outputs, and 1 for a step made, else 0."""

    policy: PolicyGradient
    targets = "any"

    def targets_of(self, old: Tensor, given: Tensor) -> Tensor:
        """Targets from the old policy's outputs (B, n, C) and the targets of the policy gradient."""
        import torch

        return torch.cat([old, given[..., MADE : MADE + 1]], -1)

    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        old, made = targets[..., :-1], targets[..., -1:]
        return (self.policy.divergence(old, z) * made).sum((1, 2)) / made.sum((1, 2))


def split(targets: Tensor) -> Parts:
    """Split targets (B, n, A + 4) into their columns."""
    advantage, weight, earned, success = targets[..., -4:].unbind(-1)
    scale = -weight * advantage / weight.sum(1, keepdim=True)
    return Parts(targets[..., :-4], scale.unsqueeze(-1), earned, success)


def joined(action: Tensor, advantage: Tensor, weight: Tensor, earned: Tensor, success: Tensor) -> Tensor:
    """Join actions (B, n, A) and the other columns (B, n) to targets (B, n, A + 4)."""
    import torch

    return torch.cat([action, torch.stack([advantage, weight, earned, success], -1)], -1)
