"""The job scripts do on a real SLURM what they promise."""

from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np
import pytest

from hpc_dmaml import results
from tests.slurm.cluster import BIN, wait_for

SRUN, MPIRUN = "srun --mpi=pmi2", "mpirun"
TASK = "--task Sinusoid --model MLP --tasks 2 --maml.inner_lr 0.01 --exchange gather"


@pytest.fixture(scope="module", autouse=True)
def _mpich():
    mpirun = shutil.which("mpirun", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if mpirun is None or "HYDRA" not in subprocess.run([mpirun, "--version"], capture_output=True, text=True).stdout:
        pytest.skip("these tests start MPICH, which the extra 'mpi' installs, under srun --mpi=pmi2")


def outcome(cluster, name):
    return results.read(cluster.folder / "results" / f"dmaml_{name}.h5", verify=True)


def test_a_job_gives_the_same_numbers_under_srun_and_under_mpirun(cluster):
    jobs = [cluster.submit(launcher, "", "run.sbatch", f"{TASK} --runs 5") for launcher in (SRUN, MPIRUN)]
    assert [cluster.end(job) for job in jobs] == [("COMPLETED", 0)] * 2
    one, other = (outcome(cluster, job) for job in jobs)
    assert one.status == other.status == "complete"
    assert one["workers/loss"].shape == (5, 2)
    for name in ("workers/loss", "workers/weight", "validation/loss", "meta_model/parameters"):
        np.testing.assert_array_equal(one[name], other[name])


def test_each_seed_of_an_array_writes_a_file_of_its_own(cluster):
    job = cluster.submit(SRUN, "--array=0-1", "seeds.sbatch", f"{TASK} --runs 5 --seed 7")
    assert [cluster.end(f"{job}_{seed}") for seed in (0, 1)] == [("COMPLETED", 0)] * 2
    files = [outcome(cluster, f"{job}_{seed}") for seed in (0, 1)]
    assert [(file.status, file.attributes["seed"]) for file in files] == [("complete", 0), ("complete", 1)]
    assert (files[0]["workers/loss"] != files[1]["workers/loss"]).all()


def test_a_job_that_slurm_signals_before_its_end_is_interrupted_and_can_go_on(cluster):
    def interrupt(job, restarts):
        """Wait until a job has written its file, and send what SLURM sends for --signal=B:USR1."""
        wait_for(lambda: file.exists() and results.read(file).attributes["restarts"] == restarts, "a checkpoint")
        cluster.command(f"scancel --signal=USR1 --batch {job}")
        assert cluster.end(job) == ("FAILED", 75)
        return results.read(file, verify=True)

    endless = "--runs 1000000000 --checkpoint.every 50"
    job = cluster.submit(SRUN, "", "run.sbatch", f"{TASK} {endless}")
    file = cluster.folder / "results" / f"dmaml_{job}.h5"
    first = interrupt(job, restarts=0)
    second = interrupt(cluster.submit(MPIRUN, "", "run.sbatch", f"--resume {file}"), restarts=1)
    assert first.status == second.status == "interrupted"
    assert len(second["runs/run"]) > len(first["runs/run"]) >= 50
