"""2D navigation: a point is to find a goal that it cannot see, from what it is rewarded for (Finn et al., 2017, section 5.3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hpc_dmaml.losses import GaussianPolicyGradient, Loss
from hpc_dmaml.requirements import require
from hpc_dmaml.tasks.family import Act, Batch, Samples, Split, TaskFamily
from hpc_dmaml.tasks.rollouts import QUERY, Trajectories, check_settings, samples

if TYPE_CHECKING:
    import torch

STEP = 0.1
"""The longest step in each direction; a policy's output of 1 is this long, as in both public codes."""
ARRIVED = 0.01
"""A trajectory ends when the goal is nearer than this in each direction."""


@dataclass(frozen=True)
class Navigation(TaskFamily):
    """Goals in a square; the reward of a step is −‖position − goal‖ after it. The defaults are Finn's.

    The paper says the squared distance; both public codes, and the returns that were published, have the distance.
    """

    trajectories: int = 20
    """Trajectories that a task adapts on in each inner step, and is judged on."""
    horizon: int = 100
    """Steps of a trajectory at most."""
    extent: float = 0.5
    """Goals lie in [-extent, extent]²."""
    discount: float = 0.99
    """γ of the advantages."""
    smoothing: float = 1.0
    """λ of their generalised estimation."""
    form: str = "log_probability"
    """Surrogate loss: log_probability (MAML's), or ratio, of the same gradient and a Hessian of lower variance."""

    sample_shape: ClassVar[tuple[int, ...]] = (2,)
    outputs: ClassVar[int] = 4

    @property
    def loss(self) -> Loss:
        return GaussianPolicyGradient(self.form)  # type: ignore[arg-type]

    def load(self) -> Navigation:
        check_settings(self)
        require(0 < self.extent < np.inf, "task.extent", self.extent, "positive")
        return self

    def sample(
        self, split: Split, rng: np.random.Generator, tasks: int, part: slice = slice(None), queries: int | None = None
    ) -> Goals:
        """Goals, and for each task a key of its own for what its trajectories are drawn with."""
        goals = rng.uniform(-self.extent, self.extent, (tasks, 2))
        keys = rng.integers(2**63, size=tasks)
        return Goals(goals[part], keys[part], self)


@dataclass(frozen=True)
class Goals(Batch):
    """B tasks. Trajectories are drawn anew for every inner step, keyed by task and step: whoever samples them, with others
    or alone, gets the same."""

    goals: torch.Tensor | np.ndarray
    """(B, 2)"""
    keys: torch.Tensor | np.ndarray
    """(B,) int64"""
    family: Navigation = field(default_factory=Navigation)

    def support(self, step: int, act: Act) -> Samples:
        return self.explore(step, act)

    def query(self, act: Act) -> Samples:
        return self.explore(QUERY, act)

    def explore(self, step: int, act: Act) -> Samples:
        return samples(self.trajectories(step, act), self.family.discount, self.family.smoothing)

    def trajectories(self, step: int, act: Act) -> Trajectories:
        """All tasks and trajectories side by side, one step after another."""
        import torch

        family, goals = self.family, torch.as_tensor(self.goals).unsqueeze(1)
        noise = self._noise(step).to(goals)
        position = goals.new_zeros(len(self), family.trajectories, 2)
        made = goals.new_ones(len(self), family.trajectories)
        steps: list[tuple[torch.Tensor, ...]] = []
        for t in range(family.horizon):
            mean, log_sigma = act(position).chunk(2, -1)
            action = mean + log_sigma.exp() * noise[:, :, t]
            after = position + STEP * action.clamp(-1, 1)
            away = after - goals
            steps.append((position, action, -away.norm(dim=-1) * made, made))
            made = made * (away.abs().amax(-1) >= ARRIVED)
            position = after
        return Trajectories(*(torch.stack(each, 2) for each in zip(*steps, strict=True)))

    def _noise(self, step: int) -> torch.Tensor:
        """(B, N, T, 2), normal; each task's from a generator of its own."""
        import torch

        shape = (self.family.trajectories, self.family.horizon, 2)
        keys = torch.as_tensor(self.keys).tolist()
        draws = [np.random.Generator(np.random.Philox(key=[key, step])).standard_normal(shape) for key in keys]
        return torch.from_numpy(np.stack(draws))
