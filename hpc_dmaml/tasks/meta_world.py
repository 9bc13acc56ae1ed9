"""Meta-World: a robot's arm that learns to handle things (Yu et al., 2019), in its benchmarks for meta-learning.

A task is one of 50 goals in an environment. ML1: one environment, other goals for the test. ML10 and ML45: so many
environments, and five others for the test. The goal is not seen, and success is what counts.
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
"""Steps of a trajectory at most, of all of Meta-World's environments."""
GROUP, COUNTED = 20, 3
"""What Meta-World's own evaluation looks at: so many tasks at once, and so many episodes of each environment's."""


class Goal(NamedTuple):
    """A task."""

    environment: str
    number: int
    """Of the goal, from 0, among those of its environment and split."""
    task: Any
    """As Meta-World has it."""

    def __str__(self) -> str:
        return f"{self.environment}, goal {self.number}"


@dataclass(frozen=True)
class MetaWorld(EnvironmentFamily):
    """Meta-World's ML1, ML10 or ML45, judged by success: the share of trajectories in which it is reached at any step.

    Each batch of tasks has as many of each environment as can be. Validation is on the training environments, with goals
    of a draw of its own.
    """

    benchmark: Literal["ML1", "ML10", "ML45"] = "ML1"
    """Which environments there are."""
    environment: str = "reach-v3"
    """Which it is, with ML1."""
    reward: Literal["v1", "v2"] = "v2"
    """Version of the reward: returns, and what is learned from them, are not comparable between the two."""
    goals: int = 0
    """Seed of the draw of the goals."""
    trajectories: int = 10
    """Trajectories that a task adapts on in each inner step, and as many that it is judged on."""
    horizon: int = EPISODES
    """Steps of a trajectory at most."""

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
        """Environments by name that no `Arm` is using: to make one takes a third of a second."""
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
    """One of a benchmark's environments after another, as the tasks want them."""

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
        """Each environment as often as the others, or once more."""
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
    """The tasks of a split, by environment. To make them takes 2, 13 or 45 seconds."""
    package = _package()
    # Meta-World has no goals for validation: they are those that it would train on after another draw, which is not the
    # draw of ML1's test (the seed after).
    seed += 2 if split == "validation" else 0
    made = package.ML1(environment, seed=seed) if benchmark == "ML1" else getattr(package, benchmark)(seed=seed)
    found: dict[str, list[Goal]] = defaultdict(list)
    for task in made.test_tasks if split == "test" else made.train_tasks:
        of = found[task.env_name]
        of.append(Goal(task.env_name, len(of), task))
    return dict(found)


def official_count(environments: Sequence[str], reached: Sequence[np.ndarray], horizon: int) -> float:
    """The share of successes as `metaworld.evaluation` counts it, from 0 to 1.

    20 tasks play at once; an episode ends with its first success, and the next begins. Of each environment the first 3
    episodes that end count, whichever tasks they are of: so those that succeed come before those that do not.

    `reached`: for each task the steps (N,) of the first success of its trajectories, or `horizon` where there is none.
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
    """Meta-World, on the MuJoCo that it wants. Raises ValueError."""
    install = 'pip install "hpc_dmaml[metaworld]"'
    try:
        wanted = next(r for r in metadata.requires("metaworld") or [] if r.startswith("mujoco"))
        pinned, here = wanted.partition("==")[2].partition(";")[0].strip(), metadata.version("mujoco")
    except (metadata.PackageNotFoundError, StopIteration) as error:
        raise ValueError(f"task: Meta-World is not installed: {install}") from error
    if pinned and here != pinned:
        raise ValueError(
            f"task: Meta-World wants MuJoCo {pinned}, but {here} is installed: make a fresh environment, and in it {install}"
        )
    try:
        import metaworld
    except Exception as error:  # such as a MuJoCo that another has been installed over
        raise TaskFailure(f"task: Meta-World cannot be imported: {described(error)}. {install}") from error
    return metaworld
