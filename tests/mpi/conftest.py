"""These tests run under mpirun: `mpirun -n 2 python -m mpi4py -m pytest --with-mpi tests/mpi`. `tests/test_mpirun.py`
starts them with 1, 2, 3 and 4 ranks; without --with-mpi they are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.mpi)


@pytest.fixture(scope="session")
def comm():
    """All ranks of this job."""
    from mpi4py import MPI

    from hpc_dmaml.communicator import MpiCommunicator

    return MpiCommunicator(MPI, MPI.COMM_WORLD)


@pytest.fixture
def folder(comm, tmp_path):
    """One temporary folder for all ranks."""
    return comm.broadcast_object(tmp_path)
