"""The only place that knows MPI: what ranks say to each other.

`connect` gives an `MpiCommunicator`, or a `Communicator` of size 1 for a process on its own. Arrays are contiguous
numpy arrays; sums and broadcasts happen in place.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_dmaml.launcher import launched_size

if TYPE_CHECKING:
    import torch


class Refusal(ValueError):
    """The job cannot start: every rank raises it, before any work. `code` to exit with: 2 where the input is bad."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


class Communicator:
    """One process on its own: everything that ranks do together is already done."""

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
        """The sum of the ranks' tensors, on every rank; a GPU's go through host memory."""
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
    def agreeing(self) -> Iterator[None]:
        """Bad input that any rank finds in this block is refused by all of them, with the first one's message."""
        refusal = None
        try:
            yield
        except (ValueError, OSError, MemoryError) as error:
            refusal = error if isinstance(error, Refusal) else Refusal(str(error))
        refusals = [r for r in self.all_gather_objects(refusal) if r is not None]
        if refusals:
            raise refusals[0]


class MpiCommunicator(Communicator):
    """Ranks under MPI.

    Where a node has more ranks than cores, a rank that waits must not keep a core from a rank that works: MPI
    libraries poll, so such a rank sleeps between looks (`patient`).
    """

    def __init__(self, mpi: Any, comm: Any, patient: bool | None = None) -> None:
        self._mpi, self._comm = mpi, comm
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        if patient is None:
            node = self.split_node()
            patient = node.size > available_cores(node)
        self._patient = patient

    def gather(self, array: np.ndarray) -> np.ndarray | None:
        all_arrays = np.empty((self.size, *array.shape), array.dtype) if self.rank == 0 else None
        self._wait(self._comm.Igather(array, all_arrays))
        return all_arrays

    def all_gather(self, array: np.ndarray) -> np.ndarray:
        all_arrays = np.empty((self.size, *array.shape), array.dtype)
        self._wait(self._comm.Iallgather(array, all_arrays))
        return all_arrays

    def all_sum(self, array: np.ndarray) -> None:
        if self._patient:
            self._wait(self._comm.Iallreduce(self._mpi.IN_PLACE, array))
        else:
            self._comm.Allreduce(self._mpi.IN_PLACE, array)

    def broadcast(self, array: np.ndarray) -> None:
        self._wait(self._comm.Ibcast(array))

    def all_gather_objects(self, value: Any) -> list[Any]:
        self.barrier()  # waits with patience, which mpi4py's own object messages do not
        result: list[Any] = self._comm.allgather(value)
        return result

    def broadcast_object(self, value: Any) -> Any:
        self.barrier()
        return self._comm.bcast(value)

    def barrier(self) -> None:
        self._wait(self._comm.Ibarrier())

    def split(self, group: int) -> Communicator:
        return MpiCommunicator(self._mpi, self._comm.Split(group, self.rank), self._patient)

    def split_node(self) -> Communicator:
        return MpiCommunicator(self._mpi, self._comm.Split_type(self._mpi.COMM_TYPE_SHARED, self.rank), False)

    def abort(self, code: int) -> None:
        self._comm.Abort(code)

    def _wait(self, request: Any) -> None:
        if not self._patient:
            request.Wait()
            return
        pause_s = 1e-5
        while not request.Test():
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1e-3)


def connect() -> Communicator:
    """Every rank of this job.

    Raises ValueError where the launcher started more processes than the MPI library sees, as happens when they do not
    belong together: each would run the whole job, silently.
    """
    expected = launched_size(os.environ)
    os.environ.setdefault("UCX_DEBUG_SIGNO", "0")  # else UCX, below some MPI libraries, takes SIGHUP for itself
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
    """Cores that the ranks of a node may use together (a launcher may have bound each to some of them)."""
    return len(set().union(*node.all_gather_objects(own_cores())))


def own_cores() -> set[int]:
    """Numbers of the cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
