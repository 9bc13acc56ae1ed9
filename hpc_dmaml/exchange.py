"""Communication of the ranks in a run: first reports on their workers, then the workers' updates.

The first message is small; ranks wait for slower ones there. The weight generator then gives the weights λ, followed by

    allreduce   each rank sums its λ_w g_w, one Allreduce sums over the ranks, and every rank steps its own optimizer;
                memory is O(P), and θ need not be broadcast;
    gather      rank 0 gathers every g_w, sums them in the order of the workers, steps, and broadcasts θ, as in the
                thesis: bitwise the same for every placement of whole workers, and for generators that need the updates.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hpc_dmaml.communicator import Communicator
from hpc_dmaml.meta_model import MetaModel
from hpc_dmaml.placement import Placement
from hpc_dmaml.weight_generators import WeightGenerator, check_any_finite, worker_weights
from hpc_dmaml.worker import Report


class RankReport(NamedTuple):
    """The part of the first message that is about a rank."""

    work_s: float
    data_s: float
    stop: float
    """1 if it was asked to stop."""
    write: float
    """1 from rank 0 if it replaces the file after this run."""
    digest: float
    """Checksum of its θ, in runs that check it."""
    exchange_s: float
    """This and the following times are of the run before."""
    wait_s: float
    validation_s: float


class Reports(NamedTuple):
    """The first message of all ranks."""

    loss: np.ndarray
    """(W,), mean over the worker's tasks and epochs"""
    metric: np.ndarray
    """(W,)"""
    finite: np.ndarray
    """(W,) bool"""
    work_s: np.ndarray
    """(W,), summed over the worker's ranks"""
    ranks: np.ndarray
    """(R, fields of RankReport)"""

    def of(self, name: str) -> np.ndarray:
        """A field of RankReport, (R,)."""
        return self.ranks[:, RankReport._fields.index(name)]


class Exchange:
    """The exchange of one job. `wait_s` is of the last run."""

    def __init__(
        self, comm: Communicator, placement: Placement, generator: WeightGenerator, gathers: bool, whole: bool
    ) -> None:
        """`whole`: the ranks of a group have already summed their parts, so that each has its worker's whole update."""
        self.comm, self.placement, self.generator, self.gathers = comm, placement, generator, gathers
        # Of ranks that have the same whole update, only the first contributes it.
        self.counts = not whole or placement.place_in_group == 0
        self.wait_s = 0.0
        self._buffer: Tensor | None = None

    def report(self, workers: list[Report], rank: RankReport) -> Reports:
        """Exchange the first message."""
        start = time.perf_counter()
        message = np.array([*rank, *(value for report in workers for value in report)])
        table = self.comm.all_gather(message)
        self.wait_s = time.perf_counter() - start
        fields = len(Report._fields)
        by_worker = table[:, len(rank) :].reshape(self.placement.workers, self.placement.group_size, fields).sum(1)
        loss, metric, tasks, not_finite, work_s = by_worker.T
        return Reports(loss / tasks, metric / tasks, not_finite == 0, work_s, table[:, : len(rank)])

    def combine(
        self, updates: list[Tensor], memory: np.ndarray, finite: np.ndarray
    ) -> tuple[np.ndarray, Tensor | None]:
        """λ (W,), and Σ λ_w g_w (P,) on the host, which in gather mode only rank 0 has.

        Args:
            updates: one (P,) for each worker of this rank.
            memory: (≤ memory_length, W) losses of the last runs, this one last.
            finite: (W,) bool.

        Raises FloatingPointError, on every rank, if no worker is finite or the generator gives no weights.
        """
        check_any_finite(finite)
        return (self._gather if self.gathers else self._all_reduce)(updates, memory, finite)

    def share(self, model: MetaModel) -> None:
        """In gather mode, broadcast the θ that rank 0 has stepped to."""
        if self.gathers:
            theta = model.theta.cpu().numpy()
            self.comm.broadcast(theta)
            model.set_theta(theta)

    def _all_reduce(
        self, updates: list[Tensor], memory: np.ndarray, finite: np.ndarray
    ) -> tuple[np.ndarray, Tensor | None]:
        weights = worker_weights(self.generator, memory, finite)
        if self._buffer is None:
            self._buffer = torch.empty(updates[0].shape, dtype=updates[0].dtype)
        total, own = self._buffer, (weights[self.placement.hosted] * self.counts).tolist()
        torch.mul(updates[0].to(total.device), own[0], out=total)
        for weight, update in zip(own[1:], updates[1:], strict=True):
            total.add_(update.to(total.device), alpha=weight)
        self.comm.all_sum(total.numpy())
        return weights, total

    def _gather(
        self, updates: list[Tensor], memory: np.ndarray, finite: np.ndarray
    ) -> tuple[np.ndarray, Tensor | None]:
        rows = torch.stack(updates).cpu().numpy() * (1 if self.counts else 0)
        gathered = self.comm.gather(rows)
        weights, problem = np.full(self.placement.workers, np.nan), "the weight generator failed on rank 0"
        if gathered is not None:
            # One row for each worker and rank of its group, in the order of the workers.
            by_worker = gathered.reshape(self.placement.workers, self.placement.group_size, -1)
            gram = None
            if self.generator.needs_gram:
                whole = by_worker[:, 0].astype(np.float64)
                gram = whole @ whole.T
            try:
                weights = worker_weights(self.generator, memory, finite, gram)
            except FloatingPointError as error:
                problem = str(error)
        self.comm.broadcast(weights)
        if np.isnan(weights).any():  # on every rank, so that none waits for the others
            raise FloatingPointError(problem)
        if gathered is None:
            return weights, None
        total = np.zeros_like(by_worker[0, 0])
        for weight, parts in zip(weights.astype(total.dtype), by_worker, strict=True):
            for part in parts:
                total += weight * part
        return weights, torch.from_numpy(total)
