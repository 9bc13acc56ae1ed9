"""Workers with their own optimizers: in each run they start at the meta-model's φ, with their state kept or reset."""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor

from hpc_dmaml.communicator import Communicator
from hpc_dmaml.meta_model import MetaModel, State, types_of
from hpc_dmaml.optimizers import Optimizer
from hpc_dmaml.placement import Placement

GROUP = "checkpoint/workers/"
"""HDF5 group of the workers' optimizer states, arrays (W, …); `stepped` (W,) is 0 for workers without a step yet."""


class OwnOptimizer:
    """One worker's parameters and its own optimizer."""

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
        """Take a step; returns the worker's parameters after it, (P,)."""
        self._model.step(gradient, factor)
        return self._model.theta

    def undo(self) -> None:
        """Restore the optimizer state from before this run."""
        self.state = self._before

    @property
    def state(self) -> State:
        return self._model.optimizer_state()

    @state.setter
    def state(self, state: State) -> None:
        self._model.set_optimizer_state(state)


class OwnOptimizers:
    """The optimizers of the workers that this rank hosts, if they have any; "fresh" ones have no state between runs."""

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
        """The last gathered states of all workers by their names in the file; on rank 0."""

    def undo(self, finite: np.ndarray) -> None:
        """Restore the state from before the run for workers that were not `finite` (W,) in it."""
        for worker, own in self.by_worker.items():
            if self.are_kept and not finite[worker]:
                own.undo()

    def gather(self, comm: Communicator) -> None:
        """Gather the states of all workers on rank 0. Collective: all ranks must call it."""
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
            if gathered is not None:  # the ranks of a group have the same state: take the first
                shape = (self._place.workers, self._place.group_size, *own.shape[1:])
                self.gathered[GROUP + name] = gathered.reshape(shape)[:, 0]

    def restore(self, stored: State) -> None:
        """Restore the states that a file holds in `GROUP`. Raises ValueError if they are of another optimizer."""
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
