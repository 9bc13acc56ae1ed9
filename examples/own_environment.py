r"""Reinforcement learning in your own environment: a room whose desired temperature is known only through the reward.

Any `gymnasium.Env` with `sample_tasks(n)` and `set_task(task)` works; all its random numbers come from
`self.np_random`. From the root of the repository:

    mpirun -n 2 python -m hpc_dmaml --config navigation_trpo \
        --task Gymnasium --task.path examples.own_environment.Room --task.horizon 30 \
        --workers 1 --tasks 10 --runs 40 --validation.every 10 --output results/room.h5
    python -m hpc_dmaml.evaluate results/room.h5 --tasks 100 --trust
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np


class Room(gymnasium.Env):
    """It cools towards 16 °C; an action heats or cools by up to 1 °C. The reward is −|temperature − wish|."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def sample_tasks(self, number: int) -> list[float]:
        return list(self.np_random.uniform(17, 25, number))

    def set_task(self, task: float) -> None:
        self.wish = task

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.temperature = self.np_random.uniform(19, 23)
        return self.seen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.temperature += float(action[0]) - 0.05 * (self.temperature - 16)
        return self.seen(), -abs(self.temperature - self.wish), False, False, {}

    def seen(self) -> np.ndarray:
        """The temperature, centred and scaled for the network."""
        return np.array([(self.temperature - 21) / 4])
