"""Workers with optimizers of their own: from run to run each goes on with its own state, from the meta-model's φ."""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor

from hpc_dmaml.communicator import Communicator
from hpc_dmaml.meta_model import MetaModel, State, types_of
from hpc_dmaml.optimizers import Optimizer
from hpc_dmaml.placement import Placement

GROUP = "checkpoint/workers/"
"""Where a file holds the workers' states, an array (W, …) each; `stepped` (W,) is 0 for who has made no step yet."""


class OwnOptimizer:
    """One worker's walk, in steps of an optimizer of its own."""

    def __init__(self, theta: Tensor, optimizer: Optimizer, state: Literal["kept", "fresh"]) -> None:
        self._model, self._is_fresh = MetaModel(theta, optimizer), state == "fresh"
        self._before: State = {}

    def begin(self, theta: Tensor) -> None:
        """Start a run from φ (P,)."""
        self._model.theta.copy_(theta)
        if self._is_fresh:
            self.state = {}
        else:
            self._before = self.state

    def step(self, gradient: Tensor, factor: float) -> Tensor:
        """A step; gives where the worker stands then, (P,)."""
        self._model.step(gradient, factor)
        return self._model.theta

    def undo(self) -> None:
        """Forget what this run has done to the state."""
        self.state = self._before

    @property
    def state(self) -> State:
        return self._model.optimizer_state()

    @state.setter
    def state(self, state: State) -> None:
        self._model.set_optimizer_state(state)


class OwnOptimizers:
    """Those of the workers that this rank hosts; none where the workers have none, and nothing is kept of fresh ones."""

    def __init__(
        self, theta: Tensor, optimizer: Optimizer | None, state: Literal["kept", "fresh"], place: Placement
    ) -> None:
        self._place = place
        self.by_worker: dict[int, OwnOptimizer] = {}
        self.are_kept = optimizer is not None and state == "kept"
        self._example: State = {}
        if optimizer is not None:
            self.by_worker = {worker: OwnOptimizer(theta, optimizer, state) for worker in place.hosted}
            self._example = MetaModel(theta, optimizer).example.optimizer_state()
        self.gathered: State = {}
        """The states of all workers, by their names in the file, as they were when last gathered; on rank 0."""

    def undo(self, finite: np.ndarray) -> None:
        """Forget a run: of workers that were not `finite` (W,) in it."""
        for worker, own in self.by_worker.items():
            if self.are_kept and not finite[worker]:
                own.undo()

    def gather(self, comm: Communicator) -> None:
        """Bring the states of all workers to rank 0. By all ranks together."""
        if not self.are_kept:
            return
        states = [own.state for own in self.by_worker.values()]
        stepped = np.array([bool(state) for state in states], np.int64)
        rows = {"stepped": stepped} | {
            name: np.stack([state.get(name, np.zeros_like(empty)) for state in states])
            for name, empty in self._example.items()
        }
        for name, own in rows.items():
            gathered = comm.gather(own)
            if gathered is not None:  # of a group's ranks, which have the same, the first
                shape = (self._place.workers, self._place.group_size, *own.shape[1:])
                self.gathered[GROUP + name] = gathered.reshape(shape)[:, 0]

    def restore(self, stored: State) -> None:
        """Go on with what a file holds below `GROUP`. Raises ValueError where it is another optimizer's."""
        if not self.are_kept:
            return
        wanted = types_of({"stepped": np.zeros((), np.int64), **self._example})
        held = types_of({name: np.empty(a.shape[1:], a.dtype) for name, a in stored.items()})
        if held != wanted or any(len(a) != self._place.workers for a in stored.values()):
            raise ValueError(
                f"{GROUP} is not the state of {self._place.workers} local_optimizers: {held}, not {wanted}"
            )
        self.gathered = {GROUP + name: a for name, a in stored.items()}
        for worker, own in self.by_worker.items():
            state = {name: a[worker] for name, a in stored.items() if name != "stepped"}
            own.state = state if stored["stepped"][worker] else {}
