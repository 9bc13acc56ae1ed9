"""Start a job on all ranks from a command line; if one rank fails, no other is left waiting."""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from hpc_dmaml.communicator import Communicator, Refusal, connect, own_cores
from hpc_dmaml.launcher import launched_rank, launched_size
from hpc_dmaml.requirements import TaskFailure
from hpc_dmaml.versions import git_commit

COMPLETE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 75
"""Exit codes. INTERRUPTED: `--resume` can continue the job; FAILED: also whenever the last state could not be written
to the output, which needs a person."""

SPINS = "3000"
"""Iterations for which a thread of GNU's OpenMP spins before it yields its core. With two threads on two busy cores a
run takes half the default's time, on idle ones 2 % more; yielding at once, the policy "passive", costs a sixth."""

Settings = TypeVar("Settings")


@contextmanager
def importing() -> Iterator[None]:
    """Import torch in this block, without garbage collection, which would find nothing and take a sixth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # later collections skip what was imported
        gc.enable()


def launch(parse: Callable[[], Settings], job: Callable[[Settings, Communicator], int]) -> int:
    """Parse the command line, find the other ranks, and run `job`. Returns the exit code.

    Errors on the command line are reported before MPI is loaded, other bad input by all ranks together. An exception on
    one rank ends all of them at once, because the others would wait for it forever.
    """
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is loaded
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    rank, wrong = launched_rank(os.environ), None
    try:
        settings = parse()
        if rank == 0:
            git_commit()  # cached
        own_cores()  # cached
    except Exception as error:
        wrong = error
    said = isinstance(wrong, ValueError)
    if isinstance(wrong, ValueError):
        _refuse(wrong, rank)
        if launched_size(os.environ) in (None, 1):
            return BAD_INPUT
    try:
        comm = connect()  # also after an error: ranks that do not have it would wait for this one
    except ValueError as error:
        return BAD_INPUT if said else _refuse(error, rank)
    try:
        with comm.raising_together():
            if wrong is not None:
                raise wrong
        # For a moment a file may look different from different nodes: use what rank 0 has read.
        return job(comm.broadcast_object(settings), comm)
    except Refusal as error:
        return error.code if said else _refuse(error, comm.rank, error.code)
    except KeyboardInterrupt:
        with suppress(OSError):  # a failing print must not leave the others waiting
            print("hpc_dmaml: stopped at once. The file as last written is kept.", file=sys.stderr, flush=True)
        comm.abort(128 + signal.SIGINT)
        raise
    except BaseException as error:
        reason = str(error) or type(error).__name__
        with suppress(OSError):
            if not isinstance(error, TaskFailure):
                traceback.print_exc()
            print(f"hpc_dmaml: rank {comm.rank} failed: {reason}. The whole job ends.", file=sys.stderr, flush=True)
        comm.abort(FAILED)
        raise


def _refuse(error: ValueError, rank: int, code: int = BAD_INPUT) -> int:
    if rank == 0:
        print(f"hpc_dmaml: error: {error}", file=sys.stderr, flush=True)
    return code
