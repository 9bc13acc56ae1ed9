"""All SLURM tests of a session share one cluster."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.slurm.cluster import BIN, Unavailable, booted


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    mpirun = shutil.which("mpirun", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if mpirun is None or "HYDRA" not in subprocess.run([mpirun, "--version"], capture_output=True, text=True).stdout:
        pytest.skip("these tests start MPICH, which the extra 'mpi' installs, under srun --mpi=pmi2")
    try:
        with booted(tmp_path_factory.mktemp("slurm"), tmp_path_factory.mktemp("jobs")) as cluster:
            yield cluster
    except Unavailable as reason:
        pytest.skip(str(reason))
