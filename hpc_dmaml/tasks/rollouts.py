"""Trajectories of a policy as samples of a task: returns, advantages, and targets for a policy-gradient loss.

B tasks of N trajectories of at most T steps. `made` is 1 for steps that were made, and 0 after the end of a trajectory.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from hpc_dmaml.data_clock import data_time
from hpc_dmaml.losses.policy_gradient import joined
from hpc_dmaml.requirements import count, require
from hpc_dmaml.tasks.family import Act, Batch, Samples, TaskFamily

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

    from hpc_dmaml.communicator import Communicator

RIDGE = 1e-5
"""Ridge coefficient of the baseline's least squares, against singular features."""
QUERY = 1 << 20
"""The number that stands for the query set in place of an inner step's; larger than any inner step's."""


class Trajectories(NamedTuple):
    states: Tensor
    """Observations before each step, (B, N, T, S)."""
    actions: Tensor
    """Actions, (B, N, T, A)."""
    rewards: Tensor
    """Rewards, (B, N, T); 0 for steps that were not made."""
    made: Tensor
    """1 for steps that were made, else 0, (B, N, T)."""
    success: Tensor | None = None
    """1 for steps that the environment calls a success, else 0, (B, N, T)."""
    positions: Tensor | None = None
    """Positions before each step, (B, N, T, D); constant after the end of a trajectory."""


class Watch:
    """Collects data of the tasks' query trajectories, by a task's key, for each step of adaptation."""

    def __init__(self, of: Callable[[Trajectories], Tensor]) -> None:
        """`of`: computes the data to keep from trajectories, with the tasks as first dimension."""
        self.of, self.kept = of, dict[int, list[np.ndarray]]()

    def note(self, keys: Any, walked: Trajectories) -> None:
        for key, each in zip(keys.tolist(), self.of(walked).cpu().numpy(), strict=True):
            self.kept.setdefault(key, []).append(each)

    def gathered(self, comm: Communicator, keys: Any) -> dict[int, list[np.ndarray]]:
        """The data of these tasks from all ranks, on every rank."""
        wanted = set(keys.tolist())
        mine = {key: kept for key, kept in self.kept.items() if key in wanted}
        return {key: kept for part in comm.all_gather_objects(mine) for key, kept in part.items()}


@dataclass(frozen=True)
class TrajectoryFamily(TaskFamily):
    """Base class of families whose samples are a policy's trajectories."""

    trajectories: int = 20
    """Number of trajectories that a task adapts on in each inner step, and of those in its query set."""
    horizon: int = 100
    """Maximum number of steps of a trajectory."""
    discount: float = 0.99
    """Discount factor γ."""
    smoothing: float = 1.0
    """λ of generalised advantage estimation."""
    form: Literal["log_probability", "ratio"] = "log_probability"
    """Surrogate loss: log_probability (MAML's), or ratio, with the same gradient and a Hessian of lower variance, for
    optimizers other than TRPO."""

    def check(self) -> None:
        """Raise ValueError if a field is out of range."""
        for name in ("trajectories", "horizon"):
            count(f"task.{name}", getattr(self, name))
        for name in ("discount", "smoothing"):
            require(0 <= getattr(self, name) <= 1, f"task.{name}", getattr(self, name), "from 0 to 1")
        require(self.form in ("log_probability", "ratio"), "task.form", self.form, "log_probability or ratio")


@dataclass(frozen=True)
class TrajectoryBatch(Batch):
    """B tasks. Every inner step samples new trajectories, with random numbers that depend on task and step only: they
    are the same in any batch."""

    keys: Any
    """Keys that seed each task's trajectories, (B,) int64."""
    watch: Watch | None = field(default=None, kw_only=True)
    """Receives the tasks' query trajectories."""

    @property
    @abstractmethod
    def settings(self) -> TrajectoryFamily: ...

    @abstractmethod
    def walk(self, step: int, act: Act) -> Trajectories:
        """Sample all tasks' trajectories for an inner step, or for the query set (`QUERY`)."""

    def support(self, step: int, act: Act) -> Samples:
        with data_time():
            walked = self.walk(step, act)
        return samples(walked, self.settings.discount, self.settings.smoothing)

    def query(self, act: Act) -> Samples:
        with data_time():
            walked = self.walk(QUERY, act)
        if self.watch is not None:
            self.watch.note(self.keys, walked)
        return samples(walked, self.settings.discount, self.settings.smoothing)

    def watched(self, watch: Watch) -> Self:
        return replace(self, watch=watch)

    def generators(self, step: int) -> list[np.random.Generator]:
        """One random generator for each task."""
        return [np.random.Generator(np.random.Philox(key=[int(key), step])) for key in self.keys]


def samples(of: Trajectories, discount: float, smoothing: float) -> Samples:
    """Observations and targets of all steps, (B, N·T, …), with advantages by GAE(γ, λ) (Schulman et al., 2016) on a
    linear baseline, normalised over each task's steps."""
    import torch

    advantage = advantages(of, discount, smoothing)
    tasks, trajectories = of.rewards.shape[:2]
    success = torch.zeros_like(of.made) if of.success is None else firsts(of.success)
    columns = (normalised(advantage, of.made), of.made, of.rewards / trajectories, success / trajectories)
    flat = [each.reshape(tasks, -1) for each in columns]
    x, actions = (each.reshape(tasks, -1, each.shape[-1]) for each in (of.states, of.actions))
    return Samples(x, joined(actions, *flat))


def firsts(success: Tensor) -> Tensor:
    """1 for the first success of each trajectory (…, T), and 0 elsewhere."""
    return success * (success.cumsum(-1) == 1)


def first_success(of: Trajectories) -> Tensor:
    """The step of each trajectory's first success, (B, N), or T if there is none."""
    assert of.success is not None
    return (of.success.cumsum(-1) == 0).sum(-1)


def positions(of: Trajectories) -> Tensor:
    """The positions of each trajectory, (B, N, T, D); NaN after its end."""
    assert of.positions is not None
    return of.positions.masked_fill(of.made.unsqueeze(-1) == 0, float("nan"))


def advantages(of: Trajectories, discount: float, smoothing: float) -> Tensor:
    """Advantages Â_t = Σ_k (γλ)^k δ_{t+k}, with δ_t = r_t + γ V_{t+1} − V_t, (B, N, T)."""
    import torch

    value = baseline(of, discount) * of.made
    later = torch.cat([value[..., 1:], torch.zeros_like(value[..., :1])], -1)
    return backwards(of.rewards + discount * later - value, discount * smoothing) * of.made


def backwards(numbers: Tensor, factor: float) -> Tensor:
    """Σ_k factor^k x_{t+k} along the last dimension."""
    import torch

    total, sums = torch.zeros_like(numbers[..., 0]), []
    for t in reversed(range(numbers.shape[-1])):
        total = numbers[..., t] + factor * total
        sums.append(total)
    return torch.stack(sums[::-1], -1)


def baseline(of: Trajectories, discount: float) -> Tensor:
    """V (B, N, T): each task's least-squares fit of future returns to features of state, time (Duan et al., 2016)."""
    import torch

    tasks, trajectories, steps, _ = of.states.shape
    time = (torch.arange(steps, dtype=torch.float64, device=of.states.device) / 100).expand(tasks, trajectories, steps)
    state = of.states.double().clamp(-10, 10)
    powers = [time**p for p in (1, 2, 3, 0)]
    features = torch.cat([state, state.square(), torch.stack(powers, -1)], -1) * of.made.double().unsqueeze(-1)
    features = features.reshape(tasks, trajectories * steps, -1)
    to_come = backwards(of.rewards.double(), discount).reshape(tasks, -1, 1)
    gram = features.mT @ features + RIDGE * torch.eye(features.shape[-1], dtype=torch.float64, device=features.device)
    weights = torch.linalg.solve(gram, features.mT @ to_come)
    return (features @ weights).reshape(tasks, trajectories, steps).to(of.rewards.dtype)


def normalised(advantage: Tensor, made: Tensor) -> Tensor:
    """Normalise to mean 0 and standard deviation 1 over the steps of each task that were made."""
    number = made.sum((1, 2), keepdim=True)
    away = (advantage - (advantage * made).sum((1, 2), keepdim=True) / number) * made
    return away / ((away.square().sum((1, 2), keepdim=True) / number).sqrt() + 1e-8)
