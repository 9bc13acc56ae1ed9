"""Meta-World's meta-learning benchmarks of manipulation with a robot arm (Yu et al., 2019).

A task is one of 50 goals in an environment. ML1: one environment, with other goals for test. ML10 and ML45: 10 and 45
environments, and five others for test. The goal is not observed, and the metric is success.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import metadata
from typing import Any, Literal, NamedTuple

import numpy as np

from hpc_dmaml.importing import described, did_you_mean
from hpc_dmaml.requirements import TaskFailure, require
from hpc_dmaml.tasks.environments import EnvironmentFamily
from hpc_dmaml.tasks.family import Split

EPISODES = 500
"""Maximum number of steps of a trajectory in any of Meta-World's environments."""
GROUP, COUNTED = 20, 3
"""Meta-World's own evaluation runs GROUP tasks at once, and counts COUNTED episodes of each environment."""


class Goal(NamedTuple):
    """A task: a goal in an environment."""

    environment: str
    number: int
    """Index of the goal, from 0, among those of its environment and split."""
    task: Any
    """Meta-World's own task object."""

    def __str__(self) -> str:
        return f"{self.environment}, goal {self.number}"


@dataclass(frozen=True)
class MetaWorld(EnvironmentFamily):
    """Meta-World's ML1, ML10 or ML45; the metric is the share of trajectories with a success at any step.

    Each batch of tasks has the same number of each environment, or one more. Validation uses the training environments,
    with separately drawn goals.
    """

    benchmark: Literal["ML1", "ML10", "ML45"] = "ML1"
    """The benchmark, which determines the environments."""
    environment: str = "reach-v3"
    """The environment of ML1."""
    reward: Literal["v1", "v2"] = "v2"
    """Version of the reward; returns, and policies learned from them, are not comparable between the two."""
    goals: int = 0
    """Seed for drawing the goals."""
    trajectories: int = 10
    """Number of trajectories that a task adapts on in each inner step, and of those in its query set."""
    horizon: int = EPISODES
    """Maximum number of steps of a trajectory."""

    def check(self) -> None:
        super().check()
        require(self.reward in ("v1", "v2"), "task.reward", self.reward, "v1 or v2")
        require(self.horizon <= EPISODES, "task.horizon", self.horizon, f"at most {EPISODES}, where Meta-World ends")
        require(self.goals >= 0, "task.goals", self.goals, "0 or more")
        known = _package().env_dict.ALL_V3_ENVIRONMENTS
        if self.benchmark == "ML1" and self.environment not in known:
            near = did_you_mean(self.environment, known)
            raise ValueError(f"task.environment: Meta-World has no environment {self.environment!r}{near}")

    @property
    def name(self) -> str:
        return f"Meta-World's {self.benchmark}"

    def make(self, **task: float) -> Arm:
        return Arm(self)

    @cached_property
    def shelf(self) -> dict[str, list[Any]]:
        """Unused environments by name, kept for the next `Arm`, because making one takes a third of a second."""
        return defaultdict(list)

    def account(self, tasks: Sequence[Any], reached: Sequence[np.ndarray]) -> list[str]:
        by_name: dict[str, list[float]] = defaultdict(list)
        for task, first in zip(tasks, reached, strict=True):
            by_name[task.environment].append(float((first < self.horizon).mean()))
        lines = [f"  {name}: success {np.mean(shares):.1%} of {len(shares)} tasks" for name, shares in by_name.items()]
        count = official_count([task.environment for task in tasks], reached, self.horizon)
        return [
            *(lines if len(lines) > 1 else []),
            f"  by Meta-World's own count, which favours who finishes first: {count:.1%}",
        ]


class Arm:
    """An environment that changes to the one of each task."""

    tells_success = True

    def __init__(self, family: MetaWorld) -> None:
        self.family = family
        self.np_random = np.random.default_rng()
        self._name = family.environment
        if family.benchmark != "ML1":
            self._name = next(iter(getattr(_package().env_dict, f"{family.benchmark}_V3")["train"]))
        self._inner = self._taken(self._name)
        self.observation_space, self.action_space = self._inner.observation_space, self._inner.action_space

    def sample_tasks(self, number: int, split: Split) -> list[Goal]:
        """Draw tasks, of each environment equally many, or one more."""
        found = goals(self.family.benchmark, self.family.environment, self.family.goals, split)
        rng, which = self.np_random, sorted(found)
        order = [which[i] for _ in range(-(-number // len(which))) for i in rng.permutation(len(which))][:number]
        left: dict[str, list[int]] = {name: [] for name in which}
        drawn = []
        for name in order:
            left[name] = left[name] or rng.permutation(len(found[name])).tolist()
            drawn.append(found[name][left[name].pop()])
        return drawn

    def set_task(self, task: Goal) -> None:
        if task.environment != self._name:
            self.family.shelf[self._name].append(self._inner)
            self._name, self._inner = task.environment, self._taken(task.environment)
        self._inner.set_task(task.task)

    def reset(self, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        return self._inner.reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        return self._inner.step(action)

    def close(self) -> None:
        self._inner.close()

    def _taken(self, name: str) -> Any:
        if shelf := self.family.shelf[name]:
            return shelf.pop()
        return _package().env_dict.ALL_V3_ENVIRONMENTS[name](reward_function_version=self.family.reward)


@lru_cache(maxsize=3)
def goals(benchmark: str, environment: str, seed: int, split: Split) -> dict[str, list[Goal]]:
    """The tasks of a split, by environment. Making them takes 2, 13 or 45 seconds (ML1, ML10, ML45)."""
    package = _package()
    # Meta-World has no goals for validation: these are its training goals for another seed, two further, because ML1's
    # test goals use the next one.
    seed += 2 if split == "validation" else 0
    made = package.ML1(environment, seed=seed) if benchmark == "ML1" else getattr(package, benchmark)(seed=seed)
    found: dict[str, list[Goal]] = defaultdict(list)
    for task in made.test_tasks if split == "test" else made.train_tasks:
        of = found[task.env_name]
        of.append(Goal(task.env_name, len(of), task))
    return dict(found)


def official_count(environments: Sequence[str], reached: Sequence[np.ndarray], horizon: int) -> float:
    """The success rate as `metaworld.evaluation` counts it, from 0 to 1.

    20 tasks run at once; an episode ends with its first success, and the next begins. Of each environment, the first 3
    episodes to end count, of whichever tasks: so successful episodes come before those that fail.

    `reached`: for each task, the steps (N,) of its trajectories' first success, or `horizon` if there is none.
    """
    shares = []
    for start in range(0, len(environments), GROUP):
        ends: dict[str, list[tuple[int, int, bool]]] = defaultdict(list)
        for place, (name, first) in enumerate(zip(environments[start : start + GROUP], reached[start:], strict=False)):
            lengths = np.where(first < horizon, first + 1, horizon)
            ends[name] += [(int(end), place, bool(f < horizon)) for end, f in zip(lengths.cumsum(), first, strict=True)]
        shares.append(np.mean([np.mean([ok for *_, ok in sorted(each)[:COUNTED]]) for each in ends.values()]))
    return float(np.mean(shares))


def _package() -> Any:
    """Import Meta-World. Raises ValueError if it, or the version of MuJoCo that it requires, is not installed."""
    install = 'pip install "hpc_dmaml[metaworld]"'
    try:
        wanted = next(r for r in metadata.requires("metaworld") or [] if r.startswith("mujoco"))
        pinned, here = wanted.partition("==")[2].partition(";")[0].strip(), metadata.version("mujoco")
    except (metadata.PackageNotFoundError, StopIteration) as error:
        raise ValueError(f"task: Meta-World is not installed: {install}") from error
    if pinned and here != pinned:
        raise ValueError(
            f"task: Meta-World requires MuJoCo {pinned}, but {here} is installed: in a new environment, {install}"
        )
    try:
        import metaworld
    except Exception as error:  # such as a broken installation of MuJoCo
        raise TaskFailure(f"task: Meta-World cannot be imported: {described(error)}. {install}") from error
    return metaworld
