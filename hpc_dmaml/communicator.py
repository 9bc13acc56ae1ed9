"""Communication between ranks: the only module that uses MPI.

`connect` returns an `MpiCommunicator`, or a `Communicator` of size 1 for a single process. Arrays are contiguous numpy
arrays; sums and broadcasts happen in place.
"""

from __future__ import annotations

import functools
import math
import os
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_dmaml.launcher import launched_size

if TYPE_CHECKING:
    import torch


class Refusal(ValueError):
    """The job cannot start: raised on every rank, before any work. `code`: the exit code, 2 for bad input."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


class Communicator:
    """A single process, for which collective operations have nothing to do."""

    rank = 0
    size = 1

    def gather(self, array: np.ndarray) -> np.ndarray | None:
        """The arrays of all ranks, (size, *shape), on rank 0; None elsewhere."""
        return array[None]

    def all_gather(self, array: np.ndarray) -> np.ndarray:
        """The arrays of all ranks, (size, *shape), on every rank."""
        return array[None]

    def all_sum(self, array: np.ndarray) -> None:
        """Replace the array on every rank by the sum over the ranks."""

    def tensor_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of the ranks' tensors, on every rank; tensors on a GPU go through host memory."""
        total = tensor.cpu().contiguous()
        self.all_sum(total.numpy())
        return total.to(tensor.device)

    def broadcast(self, array: np.ndarray) -> None:
        """Replace the array on every rank by rank 0's."""

    def all_gather_objects(self, value: Any) -> list[Any]:
        """Small Python objects of all ranks, on every rank. For set-up, not for the loop."""
        return [value]

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's value, on every rank. For set-up, not for the loop."""
        return value

    def barrier(self) -> None:
        """Wait for all ranks."""

    def split(self, group: int) -> Communicator:
        """The ranks with the same `group`, in their order."""
        return self

    def split_node(self) -> Communicator:
        """The ranks on this node."""
        return self

    def abort(self, code: int) -> None:
        """End all ranks at once."""
        os._exit(code)

    @contextmanager
    def raising_together(self) -> Iterator[None]:
        """If a rank finds bad input in this block, raise Refusal on all ranks, with the first such rank's message."""
        refusal = None
        try:
            yield
        except (ValueError, OSError, MemoryError) as error:
            refusal = error if isinstance(error, Refusal) else Refusal(str(error))
        refusals = [r for r in self.all_gather_objects(refusal) if r is not None]
        if refusals:
            raise refusals[0]


SPIN_S = 0.01
"""Seconds for which a waiting rank with a core of its own polls, offering the core to others between two polls."""
PAUSES_S = 1e-5, 1e-3
"""Seconds that it sleeps between two polls afterwards: the first pause and the longest."""


class MpiCommunicator(Communicator):
    """Ranks under MPI.

    MPI libraries poll, so that a waiting rank would take a core from a working one, or from another program. Here it
    soon sleeps between two polls, and from the start where a node has more ranks than cores. With
    OMP_WAIT_POLICY=active, the user's choice of how threads wait, a rank with a core of its own keeps polling.
    """

    def __init__(self, mpi: Any, comm: Any, spin_s: float | None = None) -> None:
        """`spin_s`: seconds of polling before the first sleep. Default: as above."""
        self._mpi, self._comm = mpi, comm
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self._spin_s = 0.0 if spin_s is None else spin_s
        if spin_s is None:
            node = self.split_node()
            if node.size <= available_cores(node):
                self._spin_s = math.inf if os.environ.get("OMP_WAIT_POLICY", "").lower() == "active" else SPIN_S

    def gather(self, array: np.ndarray) -> np.ndarray | None:
        all_arrays = np.empty((self.size, *array.shape), array.dtype) if self.rank == 0 else None
        self._wait(self._comm.Igather(array, all_arrays))
        return all_arrays

    def all_gather(self, array: np.ndarray) -> np.ndarray:
        all_arrays = np.empty((self.size, *array.shape), array.dtype)
        self._wait(self._comm.Iallgather(array, all_arrays))
        return all_arrays

    def all_sum(self, array: np.ndarray) -> None:
        if self._spin_s:  # the ranks have just exchanged messages: none waits long
            self._comm.Allreduce(self._mpi.IN_PLACE, array)
        else:
            self._wait(self._comm.Iallreduce(self._mpi.IN_PLACE, array))

    def broadcast(self, array: np.ndarray) -> None:
        self._wait(self._comm.Ibcast(array))

    def all_gather_objects(self, value: Any) -> list[Any]:
        message = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = self.all_gather(np.array([len(message)]))[:, 0]
        padded = np.zeros(sizes.max(), np.uint8)
        padded[: len(message)] = message
        return [pickle.loads(row[:size].tobytes()) for row, size in zip(self.all_gather(padded), sizes, strict=True)]

    def broadcast_object(self, value: Any) -> Any:
        message = np.frombuffer(pickle.dumps(value if self.rank == 0 else None), np.uint8).copy()
        size = np.array([len(message)])
        self.broadcast(size)
        if self.rank != 0:
            message = np.empty(size[0], np.uint8)
        self.broadcast(message)
        return value if self.rank == 0 else pickle.loads(message.tobytes())

    def barrier(self) -> None:
        self._wait(self._comm.Ibarrier())

    def split(self, group: int) -> Communicator:
        return MpiCommunicator(self._mpi, self._comm.Split(group, self.rank), self._spin_s)

    def split_node(self) -> Communicator:
        return MpiCommunicator(self._mpi, self._comm.Split_type(self._mpi.COMM_TYPE_SHARED, self.rank), self._spin_s)

    def abort(self, code: int) -> None:
        self._comm.Abort(code)

    def _wait(self, request: Any) -> None:
        end, (pause_s, longest_s) = time.perf_counter() + self._spin_s, PAUSES_S
        while not request.Test():
            if time.perf_counter() < end:
                os.sched_yield()
            else:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, longest_s)


def connect() -> Communicator:
    """Connect to all ranks of this job.

    Raises ValueError where the launcher started another number of processes than the MPI library sees, because the two
    do not belong together: each process would silently run the whole job.
    """
    expected = launched_size(os.environ)
    os.environ.setdefault("UCX_DEBUG_SIGNO", "0")  # else UCX, which some MPI libraries use, handles SIGHUP itself
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py without any MPI library
        if expected not in (None, 1):
            raise ValueError(f"{expected} processes were started, but mpi4py finds no MPI library: {error}") from error
        return Communicator()
    size: int = MPI.COMM_WORLD.Get_size()
    if expected not in (None, size):
        raise ValueError(
            f"the launcher started {expected} processes, but the MPI library ({MPI.Get_library_version().split()[0]}) "
            f"sees {size}: launcher and library do not match. Use the mpirun that belongs to mpi4py's library, or the "
            "right srun --mpi=…"
        )
    return MpiCommunicator(MPI, MPI.COMM_WORLD) if size > 1 else Communicator()


def available_cores(node: Communicator) -> int:
    """Number of cores that the ranks of a node may use together (a launcher may have bound each to some of them)."""
    return len(set().union(*node.all_gather_objects(own_cores())))


@functools.cache
def own_cores() -> set[int]:
    """Numbers of the cores that this process may use. Call it for the first time before torch is loaded: if
    OMP_PROC_BIND is set, OpenMP binds the thread that loads it to one of them."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
