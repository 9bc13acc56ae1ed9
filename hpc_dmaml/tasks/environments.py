"""Tasks and trajectories in environments with Gymnasium's interface whose task can be set."""

from __future__ import annotations

import copy
import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_dmaml.analysis import words
from hpc_dmaml.importing import described
from hpc_dmaml.losses import CategoricalPolicyGradient, GaussianPolicyGradient, Loss
from hpc_dmaml.randomness import seeded
from hpc_dmaml.requirements import TaskFailure
from hpc_dmaml.tasks.family import Act, Split
from hpc_dmaml.tasks.rollouts import Trajectories, TrajectoryBatch, TrajectoryFamily

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class EnvironmentFamily(TrajectoryFamily):
    """Base class of families whose trajectories are sampled in copies of an environment, step by step in Python."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The environment's name in messages."""

    @property
    def task_arguments(self) -> Mapping[str, tuple[float, float]]:
        """Ranges of the arguments of `make` that define a task, uniformly distributed; empty if the environment samples
        its own tasks."""
        return {}

    @abstractmethod
    def make(self, **task: float) -> Any:
        """Make a new environment. Raises ValueError."""

    def account(self, tasks: Sequence[Any], reached: Sequence[np.ndarray]) -> list[str]:
        """Further lines of a report on adapted policies, by default none. `reached`: for each task, the steps (N,) of
        its trajectories' first success, or the horizon."""
        return []

    def load(self) -> Environments:
        self.check()
        return Environments(self)


class Environments:
    """The sampler of an environment's tasks; it keeps the environment's copies in which trajectories are sampled."""

    block_runs = 1

    def __init__(self, family: EnvironmentFamily) -> None:
        self.family, self._places = family, [Place(family)]
        env = self._places[0].env
        lacks = [name for name in ("observation_space", "action_space", "reset", "step") if not hasattr(env, name)]
        if lacks:
            raise ValueError(f"task: {family.name} gives {type(env).__name__}, which has no {', '.join(lacks)}")
        spaces = gymnasium_package().spaces
        observations, actions = env.observation_space, env.action_space
        if not isinstance(observations, spaces.Box):
            raise ValueError(f"task: the observations of {family.name} must be a Box, not {observations}")
        if not isinstance(actions, spaces.Box | spaces.Discrete):
            raise ValueError(f"task: the actions of {family.name} must be a Box or Discrete, not {actions}")
        if not family.task_arguments and not (_method(env, "sample_tasks") and _method(env, "set_task", "reset_task")):
            raise ValueError(
                f"task: {family.name} has no tasks: it needs sample_tasks(n) and set_task(task) or reset_task(task), or "
                "arguments that differ from task to task: task.ranges"
            )
        self.is_discrete = isinstance(actions, spaces.Discrete)
        self.sample_shape = (int(np.prod(observations.shape)),)
        self.choices = int(actions.n) if self.is_discrete else int(np.prod(actions.shape))
        """Number of random numbers that the draw of an action needs."""
        self.outputs = self.choices if self.is_discrete else 2 * self.choices
        self.tells_success = self._places[0].tells_success

    @property
    def loss(self) -> Loss:
        kind = CategoricalPolicyGradient if self.is_discrete else GaussianPolicyGradient
        return kind(self.family.form, "success" if self.tells_success else "return")

    def places(self, number: int) -> list[Place]:
        """`number` copies of the environment, for as many simultaneous trajectories."""
        self._places += [Place(self.family) for _ in range(number - len(self._places))]
        return self._places[:number]

    def sample(
        self, split: Split, rng: np.random.Generator, tasks: int, part: slice = slice(None), queries: int | None = None
    ) -> Rollouts:
        """Draw tasks, each with a key that seeds its trajectories."""
        drawn = self._draw(rng, tasks, split)
        keys = rng.integers(2**63, size=tasks)
        return Rollouts(keys[part], np.arange(tasks)[part], drawn, self)

    def _draw(self, rng: np.random.Generator, tasks: int, split: Split) -> list[Any]:
        """Let the environment sample tasks, with its generator and the global ones seeded from `rng`."""
        if self.family.task_arguments:
            return [{name: rng.uniform(*r) for name, r in self.family.task_arguments.items()} for _ in range(tasks)]
        env, seed = self._places[0].env, int(rng.integers(2**63))
        innermost = list(_layers(env))[-1]
        with _naming(self.family, "sample_tasks"), seeded(seed):
            if hasattr(innermost, "np_random"):
                innermost.np_random = np.random.default_rng(seed)
            give = _method(env, "sample_tasks")
            assert give is not None  # checked in `__init__`
            takes_split = "split" in inspect.signature(give).parameters
            drawn = list(give(tasks, split=split) if takes_split else give(tasks))
        if len(drawn) != tasks:
            raise TaskFailure(f"task: {self.family.name}.sample_tasks({tasks}) gives {len(drawn)} tasks")
        return drawn

    def actions(self, outputs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Draw actions (…, A), or (…, 1) indices of actions, from a policy's outputs (…, C) and noise (…, choices)."""
        if self.is_discrete:  # the Gumbel-max trick
            uniform = (noise / 2**0.5).erf().add(1).div(2).clamp(1e-12, 1 - 1e-12)
            return (outputs - (-uniform.log()).log()).argmax(-1, keepdim=True).to(outputs)
        mean, log_sigma = outputs.chunk(2, -1)
        return mean + log_sigma.exp() * noise


class Place:
    """A copy of an environment, in which trajectories are sampled one after another."""

    def __init__(self, family: EnvironmentFamily) -> None:
        self.family = family
        self.task: Any = {name: low for name, (low, _) in family.task_arguments.items()}
        self.env = family.make(**self.task)
        self.tells_success = any(getattr(layer, "tells_success", False) is True for layer in _layers(self.env))

    def begin(self, task: Any, seed: int) -> np.ndarray:
        """Start a trajectory; returns its first observation (S,)."""
        with _naming(self.family, "reset", task):
            task = copy.deepcopy(task)  # the environment may change it
            if not self.family.task_arguments:
                _method(self.env, "set_task", "reset_task")(task)  # type: ignore[misc]
            elif task != self.task:
                self.env.close()
                self.env = self.family.make(**task)
            self.task = task
            return self._checked(self.env.reset(seed=seed)[0], "observation")

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        """Take an action (A,); returns the next observation (S,), the reward, and whether it succeeds, and ends."""
        space = self.env.action_space
        with _naming(self.family, "step", self.task):
            if hasattr(space, "n"):
                given: Any = int(action[0]) + int(space.start)
            else:
                given = action.reshape(space.shape).clip(space.low, space.high).astype(space.dtype)
            observation, reward, terminated, truncated, info = self.env.step(given)
            after, earned = self._checked(observation, "observation"), self._checked(reward, "reward", 1)
            succeeds = self.tells_success and bool(info["success"])
            return after, float(earned[0]), succeeds, bool(terminated or truncated)

    def _checked(self, numbers: Any, what: str, size: int | None = None) -> np.ndarray:
        """Some numbers, flat; by default as many as an observation has."""
        flat = np.array(numbers, np.float64).reshape(-1)
        size = math.prod(self.env.observation_space.shape) if size is None else size
        if len(flat) != size:
            where = f"task: {self.family.name}, task {_short(self.task)}"
            raise TaskFailure(f"{where}: the {what} must be {words.count(size, 'number')}, not {len(flat)}")
        if not np.isfinite(flat).all():
            raise TaskFailure(f"task: {self.family.name}, task {_short(self.task)}: the {what} is not finite")
        return flat


@dataclass(frozen=True)
class Rollouts(TrajectoryBatch):
    """B tasks. Every inner step samples new trajectories, with random numbers that depend on task and step only: they
    are the same in any batch, up to the rounding of the policy's outputs, which contacts of bodies soon amplify."""

    numbers: torch.Tensor | np.ndarray
    """Indices into `tasks`, (B,) int64."""
    tasks: list[Any]
    """All tasks that were drawn together, in the environment's own form."""
    environments: Environments
    place: tuple[torch.device, torch.dtype] | None = None
    """The policy's device and dtype."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Rollouts:
        return replace(super().to(device, dtype), place=(device, dtype))

    @property
    def settings(self) -> EnvironmentFamily:
        return self.environments.family

    def account(self, kept: Mapping[int, list[Any]]) -> list[str]:
        adapted = [kept[key][-1] for key in self.keys.tolist()]
        return self.settings.account([self.tasks[i] for i in self.numbers.tolist()], adapted)

    def walk(self, step: int, act: Act) -> Trajectories:
        """Sample all trajectories in parallel, with one call of the policy per time step. Steps not made are 0."""
        import torch

        family, (device, dtype) = self.environments.family, self.place or (torch.device("cpu"), torch.float64)
        tasks, number, horizon = len(self), family.trajectories, family.horizon
        seeds, noise = self._draws(step)
        noise = noise.to(device, dtype)
        places = self.environments.places(tasks * number)
        of = [self.tasks[i] for i in torch.as_tensor(self.numbers).tolist() for _ in range(number)]
        states = np.stack([place.begin(*start) for place, *start in zip(places, of, seeds, strict=True)])
        made, rewards, success = np.zeros((3, horizon, tasks * number))
        goes_on = np.ones(tasks * number, bool)
        zeros = noise.new_zeros
        x = zeros(tasks, number, horizon, states.shape[1])
        actions = zeros(tasks, number, horizon, 1 if self.environments.is_discrete else self.environments.choices)
        for t in range(horizon):
            mask = torch.from_numpy(goes_on.reshape(tasks, number, 1)).to(device)
            x[:, :, t] = torch.from_numpy(states).reshape(tasks, number, -1).to(device, dtype) * mask
            chosen = self.environments.actions(act(x[:, :, t]), noise[:, :, t])
            actions[:, :, t] = chosen.where(mask, zeros(()))
            given = chosen.double().cpu().numpy().reshape(tasks * number, -1)
            made[t] = goes_on
            for i in np.flatnonzero(goes_on):
                if not np.isfinite(given[i]).all():  # the policy has diverged: make the loss NaN
                    rewards[t, i], goes_on[i] = np.nan, False
                    continue
                states[i], rewards[t, i], success[t, i], ends = places[i].step(given[i])
                goes_on[i] = not ends
            if not goes_on.any():
                break
        rows = [torch.from_numpy(each).T.reshape(tasks, number, horizon) for each in (rewards, made, success)]
        return Trajectories(x, actions, *(each.to(device, dtype) for each in rows))

    def _draws(self, step: int) -> tuple[list[int], torch.Tensor]:
        """A seed per trajectory, and normal noise (B, N, T, choices), from a separate generator for each task."""
        import torch

        family = self.environments.family
        generators = self.generators(step)
        seeds = [int(seed) for each in generators for seed in each.integers(2**31, size=family.trajectories)]
        shape = (family.trajectories, family.horizon, self.environments.choices)
        return seeds, torch.from_numpy(np.stack([each.standard_normal(shape) for each in generators]))


def gymnasium_package(extra: str = "gymnasium") -> Any:
    """Import Gymnasium. Raises ValueError, naming the extra to install, if it is missing."""
    try:
        import gymnasium
    except ImportError as error:
        raise ValueError(f'task: Gymnasium is not installed: pip install "hpc_dmaml[{extra}]"') from error
    return gymnasium


@contextmanager
def _naming(family: EnvironmentFamily, what: str, task: Any = None) -> Iterator[None]:
    """Turn any failure of the environment into a TaskFailure that names environment and task."""
    try:
        yield
    except TaskFailure:
        raise
    except Exception as error:
        of = "" if task is None else f", task {_short(task)}"
        raise TaskFailure(f"task: {family.name}{of}: {what} failed: {described(error)}") from error


def _short(task: Any) -> str:
    text = " ".join(str(task).split())
    return text if len(text) <= 80 else f"{text[:79]}…"


def _layers(env: Any) -> Iterator[Any]:
    """Yield an environment and those that it wraps, down to the innermost."""
    while env is not None:
        yield env
        env = getattr(env, "env", None)


def _method(env: Any, *names: str) -> Callable[..., Any] | None:
    """The first of these methods that an environment, or one that it wraps, has, or None."""
    found = (getattr(layer, name, None) for name in names for layer in _layers(env))
    return next(filter(callable, found), None)
