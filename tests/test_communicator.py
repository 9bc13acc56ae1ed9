"""How a process finds out, before MPI is up, that it is one of many."""

from __future__ import annotations

import os

import pytest

from hpc_dmaml.communicator import Communicator, Refusal, connect
from hpc_dmaml.launcher import launched_rank, launched_size

STEP = {"SLURM_PROCID": "5", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8"}


@pytest.mark.parametrize(
    ("environment", "rank", "size"),
    [
        ({}, 0, None),
        ({"PMI_RANK": "3", "PMI_SIZE": "4"}, 3, 4),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, 1, 2),
        ({**STEP, "SLURM_TASK_PID": "1"}, 5, 8),
        ({**STEP, "SLURM_TASK_PID": "1", "SLURM_STEP_ID": "batch", "SLURM_NTASKS": "16"}, 0, None),
        ({**STEP, "SLURM_TASK_PID": "1", "SLURM_PTY_PORT": "40000"}, 0, None),  # by hand, in the shell of srun --pty
        ({**STEP, "SLURM_TASK_PID": str(os.getpid()), "SLURM_PTY_PORT": "40000"}, 5, 8),  # by srun, in that shell
        (STEP, 0, None),
        ({"SLURM_NTASKS": "16"}, 0, None),
        (
            {"PMI_RANK": "1", "PMI_SIZE": "2", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"},
            1,
            2,
        ),
    ],
)
def test_the_launchers_environment_tells_rank_and_size(environment, rank, size):
    assert launched_rank(environment) == rank
    assert launched_size(environment) == size


def test_a_launcher_that_does_not_belong_to_the_library_is_refused(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="launcher started 2 processes.*sees 1.*do not match"):
        connect()


def test_what_one_rank_finds_wrong_all_refuse():
    with pytest.raises(Refusal, match="no such thing"), Communicator().raising_together():
        raise ValueError("no such thing")
