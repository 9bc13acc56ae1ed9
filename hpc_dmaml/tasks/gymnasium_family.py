"""Tasks in environments of Gymnasium, or a user's own with the same interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from hpc_dmaml.importing import described, did_you_mean, imported
from hpc_dmaml.requirements import TaskFailure, require
from hpc_dmaml.tasks.environments import EnvironmentFamily, gymnasium_package
from hpc_dmaml.tasks.locomotion import ROBOTS


@dataclass(frozen=True)
class Gymnasium(EnvironmentFamily):
    """Tasks in an environment with a Box of observations, and a Box or a Discrete set of actions.

    Its `sample_tasks(n)` returns n tasks, and `set_task(task)` or `reset_task(task)` sets one; or tasks are values of
    its constructor's arguments (`ranges`). All its random numbers must come from its `np_random`, which `reset(seed=…)`
    seeds. The three splits are the same distribution, unless `sample_tasks` has a parameter `split` (train, validation
    or test). If its attribute `tells_success` is True, the metric is the share of trajectories with a step where
    info["success"] is true, instead of the return.
    """

    imports: ClassVar[tuple[str, ...]] = ("path",)

    environment: str | None = None
    """HalfCheetahDirection, HalfCheetahVelocity, AntDirection, or the id of a registered environment (Pendulum-v1)."""
    path: str | None = None
    """Import path of a class or function of your own that makes an environment, instead of `environment`."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for making the environment."""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Ranges of further arguments, which define a task and are uniformly distributed."""
    horizon: int = 200
    """Maximum number of steps of a trajectory."""

    def check(self) -> None:
        super().check()
        if self.environment in ROBOTS and self.path is None:
            require(not self.ranges, "task.ranges", self.ranges, f"left out: {self.environment} has tasks of its own")
        for name, (low, high) in self.ranges.items():
            require(np.isfinite(high - low) and low <= high, f"task.ranges.{name}", (low, high), "a range")
            require(name not in self.arguments, f"task.ranges.{name}", (low, high), "left out: it is in task.arguments")

    @property
    def name(self) -> str:
        return str(self.path or self.environment)

    @property
    def task_arguments(self) -> Mapping[str, tuple[float, float]]:
        return self.ranges

    def make(self, **task: float) -> Any:
        maker = self._maker()
        try:
            return maker(**self.arguments, **task)
        except Exception as error:  # a user's own environment may fail in any way
            text = f"task: {self.name} cannot be made: {described(error)}"
            is_missing = isinstance(error, ImportError) or type(error).__name__ == "DependencyNotInstalled"
            if is_missing and self.path is None and (self.environment in ROBOTS or "mujoco" in self._entry_point()):
                text += '. It needs MuJoCo: pip install "hpc_dmaml[mujoco]"'
            raise TaskFailure(text) from error

    def _maker(self) -> Callable[..., Any]:
        require((self.environment is None) != (self.path is None), "task", self, "given an environment or a path")
        if self.path is not None:
            if self.path.startswith("torch.nn."):  # allowed even in untrusted files
                raise ValueError(f"task.path: {self.path} makes no environment")
            made = imported("task.path", self.path)
            if not callable(made):
                raise ValueError(f"task.path: {self.path} is a {type(made).__name__}, not a class or function")
            return made
        gymnasium = gymnasium_package("mujoco" if self.environment in ROBOTS else "gymnasium")
        if self.environment in ROBOTS:
            return ROBOTS[self.environment]
        shims = [name for name, spec in gymnasium.registry.items() if str(spec.entry_point).startswith("shimmy")]
        known = [*ROBOTS, *(gymnasium.registry.keys() - set(shims))]
        if self.environment not in known:  # no shim and no "module:id": either can import any code
            near = did_you_mean(str(self.environment), known)
            raise ValueError(
                f"task.environment: Gymnasium has no environment {self.environment!r}{near}; one of your own, or of "
                "a package that registers it, is given by task.path"
            )
        return lambda **given: gymnasium.make(self.environment, disable_env_checker=True, **given)

    def _entry_point(self) -> str:
        return str(gymnasium_package().spec(self.environment).entry_point)
