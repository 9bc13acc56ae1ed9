"""What the environment of a process tells, before MPI is up: was it started as one of many, and as which?

For a process on its own a single answer is right, so what a step of srun leaves behind in a shell must not count.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")


def launched_rank(environment: Mapping[str, str]) -> int:
    """This process's rank, as the launcher's environment tells; 0 where it does not."""
    for variable in (*RANK_VARIABLES, *(("SLURM_PROCID",) if _is_srun_task(environment) else ())):
        if environment.get(variable, "").isdigit():
            return int(environment[variable])
    return 0


def launched_size(environment: Mapping[str, str]) -> int | None:
    """How many processes the launcher started; None where its environment does not say.

    SLURM_NTASKS is no help: batch shells have it too, where one process is right.
    """
    for variable in (*SIZE_VARIABLES, *(("SLURM_STEP_NUM_TASKS",) if _is_srun_task(environment) else ())):
        if environment.get(variable, "").isdigit():
            return int(environment[variable])
    return None


def announce() -> None:
    """Say, as rank 0 of several, that the job starts: what it imports may take long, on a busy machine or a slow disk."""
    size = launched_size(os.environ) or 1
    if size > 1 and launched_rank(os.environ) == 0:
        with suppress(OSError):
            os.write(2, f"starting on {size} ranks ...\n".encode())


def slurm_restarts() -> int:
    """How often SLURM has restarted this job."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def _is_srun_task(environment: Mapping[str, str]) -> bool:
    """Did srun start this process, or the script that runs it, as a task of a step?

    The shell of `srun --pty` has the same variables, and what is started there by hand has inherited them: it is no task,
    unless srun started it itself.
    """
    process = environment.get("SLURM_TASK_PID")
    if process is None or not environment.get("SLURM_STEP_ID", "").isdigit():
        return False
    return "SLURM_PTY_PORT" not in environment or process == str(os.getpid())
