"""Environments of Gymnasium, or a user's own with the same interface, whose task can be set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hpc_dmaml.importing import described, did_you_mean, imported
from hpc_dmaml.losses import CategoricalPolicyGradient, GaussianPolicyGradient, Loss
from hpc_dmaml.randomness import seeded
from hpc_dmaml.requirements import TaskFailure, require
from hpc_dmaml.tasks.family import Act, Split
from hpc_dmaml.tasks.locomotion import ROBOTS
from hpc_dmaml.tasks.rollouts import Trajectories, TrajectoryBatch, TrajectoryFamily

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Gymnasium(TrajectoryFamily):
    """Tasks in an environment with a Box of observations, and a Box or a Discrete set of actions.

    Its tasks are what its `sample_tasks(n)` gives, one of which `set_task(task)` or `reset_task(task)` sets; or values of
    its constructor's arguments (`ranges`). All that is random in it must come from its `np_random`, which `reset(seed=…)`
    seeds. The three splits are the same distribution.
    """

    imports: ClassVar[tuple[str, ...]] = ("path",)

    environment: str | None = None
    """HalfCheetahDirection, HalfCheetahVelocity, AntDirection; or the id of a registered environment, as Pendulum-v1."""
    path: str | None = None
    """In its place the import path of a class or function of your own that makes an environment."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments that it is made with."""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Further arguments, each from this range, evenly distributed: they are the task."""
    horizon: int = 200
    """Steps of a trajectory at most."""

    def load(self) -> Environments:
        self.check()
        for name, (low, high) in self.ranges.items():
            require(np.isfinite(high - low) and low <= high, f"task.ranges.{name}", (low, high), "a range")
            require(name not in self.arguments, f"task.ranges.{name}", (low, high), "left out: it is in task.arguments")
        return Environments(self)

    @property
    def name(self) -> str:
        """What a message calls the environment."""
        return str(self.path or self.environment)

    def make(self, **task: float) -> Any:
        """A new environment. Raises ValueError."""
        maker = self._maker()
        try:
            return maker(**self.arguments, **task)
        except Exception as error:  # it may be the user's own
            text = f"task: {self.name} cannot be made: {described(error)}"
            is_missing = isinstance(error, ImportError) or type(error).__name__ == "DependencyNotInstalled"
            if is_missing and self.path is None and (self.environment in ROBOTS or "mujoco" in self._entry_point()):
                text += '. It needs MuJoCo: pip install "hpc_dmaml[mujoco]"'
            raise TaskFailure(text) from error

    def _maker(self) -> Callable[..., Any]:
        require((self.environment is None) != (self.path is None), "task", self, "given an environment or a path")
        if self.path is not None:
            if self.path.startswith("torch.nn."):  # which a file may name without being trusted
                raise ValueError(f"task.path: {self.path} makes no environment")
            made = imported("task.path", self.path)
            if not callable(made):
                raise ValueError(f"task.path: {self.path} is a {type(made).__name__}, not a class or function")
            return made
        gymnasium = _gymnasium("mujoco" if self.environment in ROBOTS else "gymnasium")
        if self.environment in ROBOTS:
            return ROBOTS[self.environment]
        shims = [name for name, spec in gymnasium.registry.items() if str(spec.entry_point).startswith("shimmy")]
        known = [*ROBOTS, *(gymnasium.registry.keys() - set(shims))]
        if self.environment not in known:  # nor a shim or a module's name before it: arguments would say what to import
            near = did_you_mean(str(self.environment), known)
            raise ValueError(
                f"task.environment: Gymnasium has no environment {self.environment!r}{near}; one of your own, or of "
                "a package that registers it, is given by task.path"
            )
        return lambda **given: gymnasium.make(self.environment, disable_env_checker=True, **given)

    def _entry_point(self) -> str:
        return str(_gymnasium().spec(self.environment).entry_point)


class Environments:
    """The tasks of an environment, and the copies of it that trajectories are made in, which are kept."""

    block_runs = 1

    def __init__(self, family: Gymnasium) -> None:
        self.family, self._places = family, [Place(family)]
        env = self._places[0].env
        lacks = [name for name in ("observation_space", "action_space", "reset", "step") if not hasattr(env, name)]
        if lacks:
            raise ValueError(f"task: {family.name} gives {type(env).__name__}, which has no {', '.join(lacks)}")
        spaces = _gymnasium().spaces
        observations, actions = env.observation_space, env.action_space
        if not isinstance(observations, spaces.Box):
            raise ValueError(f"task: the observations of {family.name} must be a Box, not {observations}")
        if not isinstance(actions, spaces.Box | spaces.Discrete):
            raise ValueError(f"task: the actions of {family.name} must be a Box or Discrete, not {actions}")
        if not family.ranges and not (_method(env, "sample_tasks") and _method(env, "set_task", "reset_task")):
            raise ValueError(
                f"task: {family.name} has no tasks: it needs sample_tasks(n) and set_task(task) or reset_task(task), or "
                "arguments that differ from task to task: task.ranges"
            )
        self.is_discrete = isinstance(actions, spaces.Discrete)
        self.sample_shape = (int(np.prod(observations.shape)),)
        self.choices = int(actions.n) if self.is_discrete else int(np.prod(actions.shape))
        """Numbers of noise that an action takes."""
        self.outputs = self.choices if self.is_discrete else 2 * self.choices

    @property
    def loss(self) -> Loss:
        kind = CategoricalPolicyGradient if self.is_discrete else GaussianPolicyGradient
        return kind(self.family.form)

    def places(self, number: int) -> list[Place]:
        """Copies of the environment to make so many trajectories in at once."""
        self._places += [Place(self.family) for _ in range(number - len(self._places))]
        return self._places[:number]

    def sample(
        self, split: Split, rng: np.random.Generator, tasks: int, part: slice = slice(None), queries: int | None = None
    ) -> Rollouts:
        """Tasks, and for each of them a key of its own for what its trajectories are drawn with."""
        drawn = self._draw(rng, tasks)
        keys = rng.integers(2**63, size=tasks)
        return Rollouts(keys[part], np.arange(tasks)[part], drawn, self)

    def _draw(self, rng: np.random.Generator, tasks: int) -> list[Any]:
        """Tasks by the environment, whose own generator and the global ones are made to follow from `rng`."""
        if self.family.ranges:
            return [{name: rng.uniform(*r) for name, r in self.family.ranges.items()} for _ in range(tasks)]
        env, seed = self._places[0].env, int(rng.integers(2**63))
        innermost = list(_layers(env))[-1]
        with _naming(self.family, "sample_tasks"), seeded(seed):
            if hasattr(innermost, "np_random"):
                innermost.np_random = np.random.default_rng(seed)
            drawn = list(_method(env, "sample_tasks")(tasks))  # type: ignore[misc]
        if len(drawn) != tasks:
            raise TaskFailure(f"task: {self.family.name}.sample_tasks({tasks}) gives {len(drawn)} tasks")
        return drawn

    def actions(self, outputs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Actions (…, A), or (…, 1) numbers of actions, drawn by the policy's outputs (…, C) with the noise (…, choices)."""
        if self.is_discrete:  # Gumbel's way
            uniform = (noise / 2**0.5).erf().add(1).div(2).clamp(1e-12, 1 - 1e-12)
            return (outputs - (-uniform.log()).log()).argmax(-1, keepdim=True).to(outputs)
        mean, log_sigma = outputs.chunk(2, -1)
        return mean + log_sigma.exp() * noise


class Place:
    """An environment in which one trajectory after another is made."""

    def __init__(self, family: Gymnasium) -> None:
        self.family = family
        self.task: Any = {name: low for name, (low, _) in family.ranges.items()}
        self.env = family.make(**self.task)

    def begin(self, task: Any, seed: int) -> np.ndarray:
        """The first observation (S,) of a trajectory."""
        with _naming(self.family, "reset", task):
            if not self.family.ranges:
                _method(self.env, "set_task", "reset_task")(task)  # type: ignore[misc]
            elif task != self.task:
                self.env.close()
                self.env = self.family.make(**task)
            self.task = task
            return self._checked(self.env.reset(seed=seed)[0], "observation")

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """The observation (S,) after an action (A,), its reward, and whether the trajectory ends with it."""
        space = self.env.action_space
        with _naming(self.family, "step", self.task):
            if hasattr(space, "n"):
                given: Any = int(action[0]) + int(space.start)
            else:
                given = action.reshape(space.shape).clip(space.low, space.high).astype(space.dtype)
            observation, reward, terminated, truncated, _ = self.env.step(given)
            after, earned = self._checked(observation, "observation"), self._checked(reward, "reward")
            return after, float(earned[0]), bool(terminated or truncated)

    def _checked(self, numbers: Any, what: str) -> np.ndarray:
        flat = np.array(numbers, np.float64).reshape(-1)
        if not np.isfinite(flat).all():
            raise TaskFailure(f"task: {self.family.name}, task {_short(self.task)}: the {what} is not finite")
        return flat


@dataclass(frozen=True)
class Rollouts(TrajectoryBatch):
    """B tasks. Trajectories are drawn anew for every inner step, keyed by task and step: whoever samples them, with others
    or alone, gets the same, to the rounding of the policy's outputs, which bodies in contact soon magnify."""

    numbers: torch.Tensor | np.ndarray
    """(B,) int64, which of `tasks`."""
    tasks: list[Any]
    """All that were drawn together, in whatever form the environment has them."""
    environments: Environments
    place: tuple[torch.device, torch.dtype] | None = None
    """Where the policy is, and its precision."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Rollouts:
        return replace(super().to(device, dtype), place=(device, dtype))

    @property
    def settings(self) -> Gymnasium:
        return self.environments.family

    def walk(self, step: int, act: Act) -> Trajectories:
        """All tasks and trajectories side by side: the policy is asked once a time step. Steps that were not made are 0."""
        import torch

        family, (device, dtype) = self.environments.family, self.place or (torch.device("cpu"), torch.float64)
        tasks, number, horizon = len(self), family.trajectories, family.horizon
        seeds, noise = self._draws(step)
        noise = noise.to(device, dtype)
        places = self.environments.places(tasks * number)
        of = [self.tasks[i] for i in torch.as_tensor(self.numbers).tolist() for _ in range(number)]
        states = np.stack([place.begin(*start) for place, *start in zip(places, of, seeds, strict=True)])
        made, rewards = np.zeros((2, horizon, tasks * number))
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
                if not np.isfinite(given[i]).all():  # the policy is lost, and the loss shall show it
                    rewards[t, i], goes_on[i] = np.nan, False
                    continue
                states[i], rewards[t, i], ends = places[i].step(given[i])
                goes_on[i] = not ends
            if not goes_on.any():
                break
        rows = [torch.from_numpy(each).T.reshape(tasks, number, horizon).to(device, dtype) for each in (rewards, made)]
        return Trajectories(x, actions, *rows)

    def _draws(self, step: int) -> tuple[list[int], torch.Tensor]:
        """A seed for each trajectory, and normal noise (B, N, T, choices); each task's from a generator of its own."""
        import torch

        family = self.environments.family
        generators = self.generators(step)
        seeds = [int(seed) for each in generators for seed in each.integers(2**31, size=family.trajectories)]
        shape = (family.trajectories, family.horizon, self.environments.choices)
        return seeds, torch.from_numpy(np.stack([each.standard_normal(shape) for each in generators]))


def _gymnasium(extra: str = "gymnasium") -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise ValueError(f'task: Gymnasium is not installed: pip install "hpc_dmaml[{extra}]"') from error
    return gymnasium


@contextmanager
def _naming(family: Gymnasium, what: str, task: Any = None) -> Iterator[None]:
    """Raise TaskFailure, naming environment and task, where the environment fails in any way."""
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
    """An environment, and what it wraps, down to the innermost."""
    while env is not None:
        yield env
        env = getattr(env, "env", None)


def _method(env: Any, *names: str) -> Callable[..., Any] | None:
    """The first of these methods that an environment, or one that it wraps, has."""
    found = (getattr(layer, name, None) for name in names for layer in _layers(env))
    return next(filter(callable, found), None)
