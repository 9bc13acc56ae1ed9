"""Find out from the environment, before MPI is loaded, how many processes a launcher started, and which this one is.

A process that no launcher started must count as single, so variables that srun leaves in a shell have to be ignored.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")


def launched_rank(environment: Mapping[str, str]) -> int:
    """This process's rank by the launcher's environment variables; 0 without any."""
    for variable in (*RANK_VARIABLES, *(("SLURM_PROCID",) if _is_srun_task(environment) else ())):
        if environment.get(variable, "").isdigit():
            return int(environment[variable])
    return 0


def launched_size(environment: Mapping[str, str]) -> int | None:
    """How many processes the launcher started, by its environment variables; None without any.

    SLURM_NTASKS is of no use: batch shells have it too, in which there is one process.
    """
    for variable in (*SIZE_VARIABLES, *(("SLURM_STEP_NUM_TASKS",) if _is_srun_task(environment) else ())):
        if environment.get(variable, "").isdigit():
            return int(environment[variable])
    return None


def announce() -> None:
    """On rank 0 of several, print that the job starts, as imports may take long on a busy machine or a slow disk."""
    size = launched_size(os.environ) or 1
    if size > 1 and launched_rank(os.environ) == 0:
        with suppress(OSError):
            os.write(2, f"starting on {size} ranks ...\n".encode())


def slurm_restarts() -> int:
    """How often SLURM has restarted this job."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def _is_srun_task(environment: Mapping[str, str]) -> bool:
    """Whether srun started this process, or the script that runs it, as a task of a step.

    The shell of `srun --pty` has the same variables, which processes started there by hand inherit: they are not tasks,
    only the process that srun itself started is one.
    """
    process = environment.get("SLURM_TASK_PID")
    if process is None or not environment.get("SLURM_STEP_ID", "").isdigit():
        return False
    return "SLURM_PTY_PORT" not in environment or process == str(os.getpid())
