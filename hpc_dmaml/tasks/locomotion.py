"""MuJoCo robots whose task is a direction or a velocity: the benchmarks of Finn et al. (2017, section 5.3).

Bodies, observations and initial states are those of Gymnasium's v5 environments; the rewards are the paper's.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np


class _Robot:
    """An environment of Gymnasium whose reward depends on the task's velocity or direction."""

    name: str
    costs: dict[str, float]

    def __init__(self, **arguments: Any) -> None:
        import gymnasium
        import mujoco

        mujoco.set_mju_user_warning(_warn)  # instead of a file MUJOCO_LOG.TXT and a line per environment
        self.env: Any = gymnasium.make(self.name, disable_env_checker=True, **{**self.costs, **arguments})
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space
        self.task: Any = None

    def draw(self, rng: np.random.Generator) -> Any:
        """Draw a task."""
        raise NotImplementedError

    def progress(self, info: dict[str, Any]) -> float:
        """The reward of a step's velocity."""
        raise NotImplementedError

    def sample_tasks(self, number: int) -> list[Any]:
        rng = self.env.unwrapped.np_random
        return [self.draw(rng) for _ in range(number)]

    def set_task(self, task: Any) -> None:
        self.task = task

    def reset(self, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward - info["reward_forward"] + self.progress(info), terminated, truncated, info

    def close(self) -> None:
        self.env.close()


def _warn(text: str) -> None:
    if "deprecated" not in text:  # a warning about Gymnasium's own model files
        warnings.warn(f"MuJoCo: {text}", stacklevel=2)


class _HalfCheetah(_Robot):
    name, costs = "HalfCheetah-v5", {"ctrl_cost_weight": 0.05}


class HalfCheetahDirection(_HalfCheetah):
    """Tasks are 1 (run forwards) and −1 (backwards); the reward is the velocity in that direction."""

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.choice([-1.0, 1.0]))

    def progress(self, info: dict[str, Any]) -> float:
        return self.task * info["x_velocity"]


class HalfCheetahVelocity(_HalfCheetah):
    """Tasks are velocities v from U[0, 2]; the reward is −|velocity − v|."""

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(0, 2))

    def progress(self, info: dict[str, Any]) -> float:
        return -abs(info["x_velocity"] - self.task)


class AntDirection(_Robot):
    """Tasks are angles from U[0, 2π], or with `two` only 0 and π; the reward is the velocity in that direction."""

    name, costs = "Ant-v5", {"ctrl_cost_weight": 0.005, "contact_cost_weight": 0.0005, "healthy_reward": 0.05}

    def __init__(self, two: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.two = two

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.choice([0.0, np.pi]) if self.two else rng.uniform(0, 2 * np.pi))

    def progress(self, info: dict[str, Any]) -> float:
        return np.cos(self.task) * info["x_velocity"] + np.sin(self.task) * info["y_velocity"]


ROBOTS = {kind.__name__: kind for kind in (HalfCheetahDirection, HalfCheetahVelocity, AntDirection)}
