"""Navigation in the plane: a point has to find a goal, which it usually does not observe, from its rewards."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from hpc_dmaml.losses import GaussianPolicyGradient, Loss
from hpc_dmaml.requirements import require
from hpc_dmaml.tasks.family import Act, Split
from hpc_dmaml.tasks.rollouts import QUERY, Trajectories, TrajectoryBatch, TrajectoryFamily

if TYPE_CHECKING:
    import torch
    from torch import Tensor


PICTURED_TRAJECTORIES = 5
"""Number of trajectories of a task that a result file stores."""


@dataclass(frozen=True)
class Plane(TrajectoryFamily):
    """Base class of the families: a subclass defines starts and goals, observations, and the effect of an action."""

    outputs: ClassVar[int] = 4

    @property
    def loss(self) -> Loss:
        return GaussianPolicyGradient(self.form)

    def load(self) -> Any:
        self.check()
        return self

    def sample(
        self, split: Split, rng: np.random.Generator, tasks: int, part: slice = slice(None), queries: int | None = None
    ) -> Points:
        """Draw starts and goals, and for each task a key that seeds its trajectories."""
        starts, goals = self.places(rng, tasks)
        keys = rng.integers(2**63, size=tasks)
        return Points(keys[part], starts[part], goals[part], self)

    @abstractmethod
    def places(self, rng: np.random.Generator, tasks: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw starts and goals, each (tasks, 2). The three splits are the same distribution."""

    @abstractmethod
    def observe(self, position: Tensor, goal: Tensor) -> Tensor:
        """The observations (B, N, *sample shape) at positions (B, N, 2)."""

    @abstractmethod
    def move(self, position: Tensor, action: Tensor, goal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The positions after a step (B, N, 2), its reward (B, N), and whether it is the last, (B, N) bool."""

    @abstractmethod
    def straight(self, position: Tensor, goal: Tensor) -> Tensor:
        """The action that leads straight to the goal, (B, N, 2)."""


@dataclass(frozen=True)
class Points(TrajectoryBatch):
    """B tasks, whose trajectories are computed in tensors."""

    starts: Any
    """Start positions, (B, 2)."""
    goals: Any
    """Goal positions, (B, 2)."""
    family: Plane

    @property
    def settings(self) -> Plane:
        return self.family

    def pictured(self, kept: Mapping[int, list[np.ndarray]]) -> dict[str, np.ndarray]:
        """What a result file stores: these tasks' positions (steps + 1, B, ≤ N, T, 2), and their goals (B, 2)."""
        walked = np.stack([kept[key] for key in self.keys.tolist()], 1)
        return {
            "trajectories/position": walked[:, :, :PICTURED_TRAJECTORIES].astype(float),
            "trajectories/goal": self.goals,
        }

    def oracle(self) -> Tensor:
        """The mean return of going straight to the goal, (B,)."""
        return self.walk(QUERY, None).rewards.sum(-1).mean(-1)

    def walk(self, step: int, act: Act | None) -> Trajectories:
        """Sample all trajectories in parallel, by the policy, or straight to the goal if `act` is None."""
        import torch

        family = self.family
        start, goal = (torch.as_tensor(each).unsqueeze(1) for each in (self.starts, self.goals))
        position = start.expand(-1, family.trajectories, -1)
        noise = self._noise(step).to(goal)
        made = goal.new_ones(len(self), family.trajectories)
        steps: list[tuple[torch.Tensor, ...]] = []
        for t in range(family.horizon):
            seen = family.observe(position, goal)
            if act is None:
                action = family.straight(position, goal)
            else:
                mean, log_sigma = act(seen).chunk(2, -1)
                action = mean + log_sigma.exp() * noise[:, :, t]
            after, reward, is_last = family.move(position, action, goal)
            steps.append((seen, action, reward * made, made, position))
            made, position = made * ~is_last, torch.where((made > 0).unsqueeze(-1), after, position)
        states, actions, rewards, was_made, positions = (torch.stack(each, 2) for each in zip(*steps, strict=True))
        return Trajectories(states, actions, rewards, was_made, positions=positions)

    def _noise(self, step: int) -> Tensor:
        """Normal noise (B, N, T, 2), from a separate generator for each task."""
        import torch

        shape = (self.family.trajectories, self.family.horizon, 2)
        return torch.from_numpy(np.stack([each.standard_normal(shape) for each in self.generators(step)]))


@dataclass(frozen=True)
class Navigation(Plane):
    """Goals in a square around the start; the reward of a step is −‖position − goal‖ (Finn et al., 2017, section 5.3).

    The paper states the squared distance; both public codes, and the published returns, use the distance.
    """

    extent: float = 0.5
    """Goals are in [-extent, extent]²."""

    sample_shape: ClassVar[tuple[int, ...]] = (2,)
    step: ClassVar[float] = 0.1
    """The longest step in each coordinate; an action of 1 is this long, as in both public codes."""
    arrived: ClassVar[float] = 0.01
    """A trajectory ends when the goal is nearer than this in each coordinate."""

    def load(self) -> Navigation:
        require(0 < self.extent < np.inf, "task.extent", self.extent, "positive")
        return super().load()

    def places(self, rng: np.random.Generator, tasks: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((tasks, 2)), rng.uniform(-self.extent, self.extent, (tasks, 2))

    def observe(self, position: Tensor, goal: Tensor) -> Tensor:
        return position

    def move(self, position: Tensor, action: Tensor, goal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        after = position + self.step * action.clamp(-1, 1)
        away = after - goal
        return after, -away.norm(dim=-1), away.abs().amax(-1) < self.arrived

    def straight(self, position: Tensor, goal: Tensor) -> Tensor:
        return (goal - position) / self.step


SIDE, DIAGONAL = 255.0, 360.62


@dataclass(frozen=True)
class Court(Plane):
    """The thesis author's court of 255 × 255 (Soulier, 2020, figure 3.7): an action is a direction and a length.

    The reward of a step is −(distance to the goal / 10 + 1); the step that arrives gets 1,000 and is the last.
    """

    difficulty: Literal["very_easy", "easy", "hard", "very_hard"] = "hard"
    """very_easy: start and goal fixed; easy: any start, goal in the middle; hard: both anywhere; very_hard: the same,
    and only the distance is observed."""

    longest: ClassVar[float] = 10.0
    arrived: ClassVar[float] = 5.0

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return (1,) if self.difficulty == "very_hard" else (5,)

    def places(self, rng: np.random.Generator, tasks: int) -> tuple[np.ndarray, np.ndarray]:
        starts, goals = rng.uniform(0, SIDE, (2, tasks, 2))
        if self.difficulty == "very_easy":
            starts, goals = np.full_like(starts, 10.0), np.full_like(goals, 200.0)
        elif self.difficulty == "easy":
            goals = np.full_like(goals, 127.0)
        return starts, goals

    def observe(self, position: Tensor, goal: Tensor) -> Tensor:
        import torch

        distance = (position - goal).norm(dim=-1, keepdim=True) / DIAGONAL
        if self.difficulty == "very_hard":
            return distance
        return torch.cat([2 * position / SIDE - 1, (2 * goal / SIDE - 1).expand_as(position), distance], -1)

    def move(self, position: Tensor, action: Tensor, goal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        import torch

        turn, length = action.clamp(-1, 1).unbind(-1)
        angle, length = (turn + 1.5) * np.pi, (length + 1) / 2 * self.longest
        way = torch.stack([angle.cos(), angle.sin()], -1) * length.unsqueeze(-1)
        after = (position + way).clamp(0, SIDE)
        distance = (after - goal).norm(dim=-1)
        has_arrived = distance <= self.arrived
        return after, torch.where(has_arrived, 1000.0, -distance / 10 - 1), has_arrived

    def straight(self, position: Tensor, goal: Tensor) -> Tensor:
        import torch

        way = goal - position
        turn = (torch.atan2(way[..., 1], way[..., 0]) / np.pi - 1.5 + 1) % 2 - 1
        length = (way.norm(dim=-1) / self.longest).clamp(max=1) * 2 - 1
        return torch.stack([turn, length], -1)
